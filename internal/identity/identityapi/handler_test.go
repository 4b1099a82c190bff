package identityapi

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/murmuration/murmuration/internal/identity"
	"github.com/murmuration/murmuration/internal/memstore"
	"github.com/murmuration/murmuration/internal/record"
	"github.com/murmuration/murmuration/internal/wire"
	v1 "github.com/murmuration/murmuration/proto/murmur/v1"
	"github.com/murmuration/murmuration/proto/murmur/v1/murmurv1connect"
)

const password = "correct horse battery"

// server is a whole API server on loopback, as a seeder runs it.
type server struct {
	auth  *identity.Authority
	store *memstore.Store
	url   string
	http  *http.Client // without a certificate
	log   *strings.Builder
}

func newServer(t *testing.T) *server {
	t.Helper()
	ca, err := identity.NewCA("test", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	store := memstore.New()
	t.Cleanup(func() { store.Close() })
	log := &strings.Builder{}
	logger := slog.New(slog.NewTextHandler(log, nil))
	auth, err := identity.New(identity.Config{Store: store, CA: ca, Log: logger, Password: identity.PasswordCost{MemoryKiB: 64, Passes: 1, Threads: 1}})
	if err != nil {
		t.Fatal(err)
	}
	if err := auth.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := auth.Bootstrap(t.Context(), "root", password); err != nil {
		t.Fatal(err)
	}
	cert, err := identity.NewServerCert(ca, "s1", "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle(murmurv1connect.NewIdentityServiceHandler(New(auth, "v1.2.3"), connect.WithInterceptors(wire.Errors(logger), auth.Interceptor())))
	mux.Handle(murmurv1connect.NewSessionServiceHandler(sessions{}, connect.WithInterceptors(wire.Errors(logger), auth.Interceptor())))
	srv := httptest.NewUnstartedServer(auth.Middleware(mux))
	srv.TLS = identity.ServerConfig(ca.Pool(), cert.Certificate, auth.Revoked)
	srv.EnableHTTP2 = true
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	srv.StartTLS()
	t.Cleanup(srv.Close)
	// httptest puts a certificate of its own in; ours is asked first, but only without a static one.
	srv.TLS.Certificates = nil
	transport := &http.Transport{TLSClientConfig: identity.SeederClientConfig(ca.Pool(), nil, "127.0.0.1"), ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &server{auth: auth, store: store, url: srv.URL, http: &http.Client{Transport: transport}, log: log}
}

// as is a client with this bearer.
func (s *server) as(token string) murmurv1connect.IdentityServiceClient {
	return murmurv1connect.NewIdentityServiceClient(s.http, s.url, connect.WithInterceptors(connect.UnaryInterceptorFunc(func(next connect.UnaryFunc) connect.UnaryFunc {
		return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
			if token != "" {
				req.Header().Set("Authorization", "Bearer "+token)
			}
			return next(ctx, req)
		}
	})))
}

func (s *server) login(t *testing.T, user, password string) string {
	t.Helper()
	resp, err := s.as("").Login(t.Context(), connect.NewRequest(&v1.LoginRequest{User: user, Password: password}))
	if err != nil {
		t.Fatal(err)
	}
	return resp.Msg.Token
}

// user makes a user and logs in.
func (s *server) user(t *testing.T, admin, name, role string) string {
	t.Helper()
	_, err := s.as(admin).PutUser(t.Context(), connect.NewRequest(&v1.PutUserRequest{User: &v1.User{Name: name, Role: role}, Password: password}))
	if err != nil {
		t.Fatal(err)
	}
	return s.login(t, name, password)
}

// joined is a host that joined.
func (s *server) joined(t *testing.T, admin, name string) (*identity.HostStore, string) {
	t.Helper()
	resp, err := s.as(admin).CreateJoinToken(t.Context(), connect.NewRequest(&v1.CreateJoinTokenRequest{Labels: map[string]string{"rack": "r1"}}))
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "identity")
	host, err := identity.Join(t.Context(), dir, s.url, resp.Msg.Token, name, nil)
	if err != nil {
		t.Fatal(err)
	}
	return host, dir
}

func wantCode(t *testing.T, what string, err error, want connect.Code) {
	t.Helper()
	if got := connect.CodeOf(err); err == nil || got != want {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func TestPeopleAndTokens(t *testing.T) {
	s := newServer(t)
	ctx := t.Context()
	root := s.login(t, "root", password)
	dev := s.user(t, root, "dev", "developer")

	who, err := s.as(dev).WhoAmI(ctx, connect.NewRequest(&v1.WhoAmIRequest{}))
	if err != nil || who.Msg.User.Name != "dev" || who.Msg.User.Role != "developer" || who.Msg.Version != "v1.2.3" {
		t.Errorf("WhoAmI = %v, %v", who, err)
	}
	_, err = s.as("").WhoAmI(ctx, connect.NewRequest(&v1.WhoAmIRequest{}))
	wantCode(t, "nobody", err, connect.CodeUnauthenticated)
	_, err = s.as("ms1.a.b").WhoAmI(ctx, connect.NewRequest(&v1.WhoAmIRequest{}))
	wantCode(t, "a wrong token", err, connect.CodeUnauthenticated)
	_, err = s.as(dev).ListUsers(ctx, connect.NewRequest(&v1.ListUsersRequest{}))
	wantCode(t, "a developer listing users", err, connect.CodePermissionDenied)
	_, err = s.as("").Login(ctx, connect.NewRequest(&v1.LoginRequest{User: "root", Password: "wrong password"}))
	wantCode(t, "a wrong password", err, connect.CodeUnauthenticated)
	if _, err := s.as("ms1.old.token").Login(ctx, connect.NewRequest(&v1.LoginRequest{User: "dev", Password: password})); err != nil {
		t.Errorf("logging in with an old token at hand: %v", err)
	}

	made, err := s.as(dev).CreateToken(ctx, connect.NewRequest(&v1.CreateTokenRequest{Name: "hook", Role: "developer", Ttl: durationpb.New(time.Hour)}))
	if err != nil {
		t.Fatal(err)
	}
	who, err = s.as(made.Msg.Token).WhoAmI(ctx, connect.NewRequest(&v1.WhoAmIRequest{}))
	if err != nil || who.Msg.User.Name != "dev/hook" {
		t.Errorf("WhoAmI by token = %v, %v", who, err)
	}
	list, err := s.as(dev).ListTokens(ctx, connect.NewRequest(&v1.ListTokensRequest{}))
	if err != nil || len(list.Msg.Tokens) != 1 {
		t.Fatalf("ListTokens = %v, %v", list, err)
	}
	if _, err := s.as(dev).RevokeToken(ctx, connect.NewRequest(&v1.RevokeTokenRequest{Id: list.Msg.Tokens[0].Id})); err != nil {
		t.Fatal(err)
	}
	_, err = s.as(made.Msg.Token).WhoAmI(ctx, connect.NewRequest(&v1.WhoAmIRequest{}))
	wantCode(t, "a revoked token", err, connect.CodeUnauthenticated)
	if _, err := s.as(dev).Logout(ctx, connect.NewRequest(&v1.LogoutRequest{})); err != nil {
		t.Fatal(err)
	}
	_, err = s.as(dev).WhoAmI(ctx, connect.NewRequest(&v1.WhoAmIRequest{}))
	wantCode(t, "after log-out", err, connect.CodeUnauthenticated)
	if _, err := s.as(root).RemoveUser(ctx, connect.NewRequest(&v1.RemoveUserRequest{Name: "dev"})); err != nil {
		t.Error(err)
	}
	_, err = s.as(root).RemoveUser(ctx, connect.NewRequest(&v1.RemoveUserRequest{Name: "dev"}))
	wantCode(t, "removing nobody", err, connect.CodeNotFound)
	users, err := s.as(root).ListUsers(ctx, connect.NewRequest(&v1.ListUsersRequest{}))
	if err != nil || len(users.Msg.Users) != 1 {
		t.Errorf("ListUsers = %v, %v", users, err)
	}
}

func TestHostJoinsAndRenews(t *testing.T) {
	s := newServer(t)
	root := s.login(t, "root", password)
	host, dir := s.joined(t, root, "web-1")
	again, err := identity.OpenHost(dir)
	if err != nil || again.HostID() != host.HostID() {
		t.Fatalf("OpenHost: %v", err)
	}
	before, _ := again.Certificate()
	if err := again.Renew(t.Context(), s.url); err != nil {
		t.Fatal(err)
	}
	after, _ := again.Certificate()
	if identity.Serial(before.Leaf) == identity.Serial(after.Leaf) {
		t.Error("the certificate was not renewed")
	}
	if third, err := identity.OpenHost(dir); err != nil {
		t.Error(err)
	} else if c, _ := third.Certificate(); identity.Serial(c.Leaf) != identity.Serial(after.Leaf) {
		t.Error("the renewed certificate is not on disk")
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, %v", e.Name(), info.Mode(), err)
		}
		if strings.Contains(e.Name(), "key") {
			t.Errorf("%s was left behind", e.Name())
		}
	}
	if _, err := identity.Join(t.Context(), dir, s.url, "mj1.a.b."+strings.Repeat("0", 64), "web-1", nil); err == nil {
		t.Error("joined over an identity")
	}
}

func TestHostsMayDoNothingElse(t *testing.T) {
	s := newServer(t)
	root := s.login(t, "root", password)
	host, _ := s.joined(t, root, "web-1")
	hc := host.HTTPClient()
	t.Cleanup(hc.CloseIdleConnections)
	client := murmurv1connect.NewIdentityServiceClient(hc, s.url)
	_, err := client.ListUsers(t.Context(), connect.NewRequest(&v1.ListUsersRequest{}))
	wantCode(t, "a host listing users", err, connect.CodePermissionDenied)
	_, err = client.WhoAmI(t.Context(), connect.NewRequest(&v1.WhoAmIRequest{}))
	wantCode(t, "a host asking who it is", err, connect.CodePermissionDenied)
	_, err = s.as(root).RenewCertificate(t.Context(), connect.NewRequest(&v1.RenewCertificateRequest{}))
	wantCode(t, "a person renewing a certificate", err, connect.CodePermissionDenied)
}

func TestRemovedHostIsLockedOut(t *testing.T) {
	s := newServer(t)
	root := s.login(t, "root", password)
	host, _ := s.joined(t, root, "web-1")
	peer := identity.Peer{Kind: identity.KindHost, ID: host.HostID()}
	ops, err := identity.RevokeOps(peer, "root", "decommissioned")
	if err != nil {
		t.Fatal(err)
	}
	ops = append(ops, record.Drop(record.Key{Kind: record.KindHost, ID: host.HostID()}, record.Any))
	// One connection from before the removal: the request over it is refused too.
	hc := host.HTTPClient()
	t.Cleanup(hc.CloseIdleConnections)
	client := murmurv1connect.NewIdentityServiceClient(hc, s.url)
	_, err = client.WhoAmI(t.Context(), connect.NewRequest(&v1.WhoAmIRequest{}))
	wantCode(t, "before", err, connect.CodePermissionDenied)
	if _, err := s.auth.Commit(t.Context(), "host.remove", "host/"+host.HostID(), "", nil, nil, ops...); err != nil {
		t.Fatal(err)
	}
	_, err = client.RenewCertificate(t.Context(), connect.NewRequest(&v1.RenewCertificateRequest{}))
	wantCode(t, "over the old connection", err, connect.CodePermissionDenied)
	if err == nil || !strings.Contains(err.Error(), "decommissioned") {
		t.Errorf("the host is not told why: %v", err)
	}
	if err := host.Renew(t.Context(), s.url); err == nil {
		t.Error("a removed host renewed its certificate")
	}
}

// sessions is what a session handler does about identity, and nothing else.
type sessions struct{}

func (sessions) Attach(ctx context.Context, s *connect.BidiStream[v1.AttachRequest, v1.AttachResponse]) error {
	p, ok := identity.PeerFromContext(ctx)
	first, err := s.Receive()
	if err != nil {
		return err
	}
	if claimed := first.GetHello().GetHostId(); !ok || p.Name() != claimed {
		return wire.Denied("the certificate is of %s, not of %s", p.Name(), claimed)
	}
	return s.Send(&v1.AttachResponse{})
}

// attach opens a session that claims to be a host.
func attach(t *testing.T, client *http.Client, url, hostID string) error {
	t.Helper()
	stream := murmurv1connect.NewSessionServiceClient(client, url).Attach(t.Context())
	defer stream.CloseResponse()
	_ = stream.Send(&v1.AttachRequest{Report: &v1.AttachRequest_Hello{Hello: &v1.Hello{HostId: hostID}}}) // Receive says why it failed
	_, err := stream.Receive()
	_ = stream.CloseRequest()
	return err
}

func TestSessionsNeedTheHostsOwnCertificate(t *testing.T) {
	s := newServer(t)
	root := s.login(t, "root", password)
	one, _ := s.joined(t, root, "web-1")
	two, _ := s.joined(t, root, "web-2")
	hc := one.HTTPClient()
	t.Cleanup(hc.CloseIdleConnections)
	if err := attach(t, hc, s.url, one.HostID()); err != nil {
		t.Errorf("with its own certificate: %v", err)
	}
	wantCode(t, "with another host's certificate", attach(t, hc, s.url, two.HostID()), connect.CodePermissionDenied)
	wantCode(t, "without a certificate", attach(t, s.http, s.url, one.HostID()), connect.CodeUnauthenticated)
}

// TestJoinAfterACrash: host.json is written last, so a host that died before it joins again, as the same host.
func TestJoinAfterACrash(t *testing.T) {
	s := newServer(t)
	resp, err := s.as(s.login(t, "root", password)).CreateJoinToken(t.Context(), connect.NewRequest(&v1.CreateJoinTokenRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "identity")
	first, err := identity.Join(t.Context(), dir, s.url, resp.Msg.Token, "web-1", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Rename(filepath.Join(dir, "host.pem"), filepath.Join(dir, "join-key.pem")), os.Remove(filepath.Join(dir, "host.json"))); err != nil {
		t.Fatal(err)
	}
	if _, err := identity.OpenHost(dir); !errors.Is(err, identity.ErrNotJoined) {
		t.Errorf("OpenHost before host.json: %v", err)
	}
	again, err := identity.Join(t.Context(), dir, s.url, resp.Msg.Token, "web-1", nil)
	if err != nil || again.HostID() != first.HostID() {
		t.Errorf("joining again: %v; want the same host", err)
	}
}

func TestJoinTrustsNobodyOnFirstUse(t *testing.T) {
	real, fake := newServer(t), newServer(t)
	resp, err := real.as(real.login(t, "root", password)).CreateJoinToken(t.Context(), connect.NewRequest(&v1.CreateJoinTokenRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "identity")
	if _, err := identity.Join(t.Context(), dir, fake.url, resp.Msg.Token, "web-1", nil); err == nil || !strings.Contains(err.Error(), "does not belong to the fleet") {
		t.Errorf("joined at a server of another fleet: %v", err)
	}
	if strings.Contains(fake.log.String(), "join") {
		t.Errorf("the other fleet's server got the token: %s", fake.log)
	}
	host, err := identity.Join(t.Context(), dir, real.url, resp.Msg.Token, "web-1", nil)
	if err != nil {
		t.Fatalf("then at the right one: %v", err)
	}
	_, err = identity.Join(t.Context(), filepath.Join(t.TempDir(), "x"), real.url, resp.Msg.Token, "web-2", nil)
	wantCode(t, "a second host with the token", err, connect.CodePermissionDenied)
	if _, err := host.UpdateTrust([]byte("{}")); !errors.Is(err, identity.ErrBundle) {
		t.Errorf("a trust bundle that nobody signed: %v", err)
	}
	if _, err := identity.Join(t.Context(), dir, "http://127.0.0.1:1", resp.Msg.Token, "web-1", nil); err == nil {
		t.Error("joined over plain http")
	}
}

// TestStrangersCertificate: a certificate of another fleet ends the handshake.
func TestStrangersCertificate(t *testing.T) {
	s := newServer(t)
	other, err := identity.NewCA("other", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := other.IssueServer("s1", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(s.auth.CA().Certificate())
	transport := &http.Transport{TLSClientConfig: identity.SeederClientConfig(roots, func() (*tls.Certificate, error) { return cert, nil }, ""), ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	client := murmurv1connect.NewIdentityServiceClient(&http.Client{Transport: transport}, s.url)
	_, err = client.Login(t.Context(), connect.NewRequest(&v1.LoginRequest{User: "root", Password: password}))
	if err == nil {
		t.Error("a stranger's certificate was accepted")
	}
}

func TestBuildersOverTheAPI(t *testing.T) {
	s := newServer(t)
	root := s.as(s.login(t, "root", password))
	signer, err := identity.NewSigner()
	if err != nil {
		t.Fatal(err)
	}
	added, err := root.AddBuilder(t.Context(), connect.NewRequest(&v1.AddBuilderRequest{Builder: &v1.Builder{Name: "ci", PublicKey: signer.Public(), Services: []string{"web"}}}))
	if err != nil || added.Msg.Builder.KeyId != signer.KeyID() {
		t.Fatalf("AddBuilder = %v, %v", added, err)
	}
	_, err = root.AddBuilder(t.Context(), connect.NewRequest(&v1.AddBuilderRequest{}))
	wantCode(t, "no key", err, connect.CodeInvalidArgument)
	_, err = root.RevokeBuilder(t.Context(), connect.NewRequest(&v1.RevokeBuilderRequest{KeyId: "00ff", Reason: "x"}))
	wantCode(t, "an unknown key", err, connect.CodeNotFound)
	if _, err := root.RevokeBuilder(t.Context(), connect.NewRequest(&v1.RevokeBuilderRequest{KeyId: signer.KeyID(), Reason: "stolen"})); err != nil {
		t.Fatal(err)
	}
	list, err := root.ListBuilders(t.Context(), connect.NewRequest(&v1.ListBuildersRequest{}))
	if err != nil || len(list.Msg.Builders) != 1 || !list.Msg.Builders[0].Revoked {
		t.Errorf("ListBuilders = %v, %v", list, err)
	}
}

func TestAuditOverTheAPI(t *testing.T) {
	s := newServer(t)
	root := s.as(s.login(t, "root", password))
	verified, err := root.VerifyAudit(t.Context(), connect.NewRequest(&v1.VerifyAuditRequest{}))
	if err != nil || verified.Msg.Records != 2 || verified.Msg.FirstBad != 0 {
		t.Errorf("VerifyAudit = %v, %v", verified, err)
	}
	list, err := root.ListAudit(t.Context(), connect.NewRequest(&v1.ListAuditRequest{}))
	if err != nil || len(list.Msg.Records) != 2 {
		t.Fatalf("ListAudit = %v, %v", list, err)
	}
	if r := list.Msg.Records[0]; r.What != "session.begin" || r.Who != "root" || r.From != "127.0.0.1" || len(r.Hash) != 64 {
		t.Errorf("the newest record: %v", r)
	}
}

// TestErrorsLeakNothing: what goes wrong inside is logged, and the caller gets a reference.
func TestErrorsLeakNothing(t *testing.T) {
	s := newServer(t)
	root := s.login(t, "root", password)
	s.store.Fail(func(memstore.Op) error { return errors.New("dial etcd-7.internal:2379: secret detail") })
	_, err := s.as(root).ListBuilders(t.Context(), connect.NewRequest(&v1.ListBuildersRequest{}))
	wantCode(t, "a broken store", err, connect.CodeInternal)
	if err != nil && strings.Contains(err.Error(), "etcd-7") {
		t.Errorf("the caller sees the inside: %v", err)
	}
	if !strings.Contains(s.log.String(), "etcd-7") {
		t.Error("the log does not say what went wrong")
	}
	s.store.Fail(func(memstore.Op) error { return record.ErrUnavailable })
	_, err = s.as(root).ListBuilders(t.Context(), connect.NewRequest(&v1.ListBuildersRequest{}))
	wantCode(t, "the store is down", err, connect.CodeUnavailable)
}
