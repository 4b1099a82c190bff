// Package identityapi is the Connect handler of murmur.v1.IdentityService: it converts messages and calls an
// [identity.Authority], which decides everything. Errors are returned as they are; the server's interceptors
// ([wire.Errors] outermost, then [identity.Authority.Interceptor]) turn them into statuses.
package identityapi

import (
	"context"
	"crypto/ed25519"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/murmuration/murmuration/internal/identity"
	"github.com/murmuration/murmuration/internal/record"
	"github.com/murmuration/murmuration/internal/wire"
	v1 "github.com/murmuration/murmuration/proto/murmur/v1"
	"github.com/murmuration/murmuration/proto/murmur/v1/murmurv1connect"
)

// Handler serves IdentityService. It is safe for concurrent use.
type Handler struct {
	auth    *identity.Authority
	version string
}

var _ murmurv1connect.IdentityServiceHandler = (*Handler)(nil)

// New makes a handler. Version is what WhoAmI says about the server.
func New(auth *identity.Authority, version string) *Handler {
	return &Handler{auth: auth, version: version}
}

// Login implements murmur.v1.IdentityService.
func (h *Handler) Login(ctx context.Context, req *connect.Request[v1.LoginRequest]) (*connect.Response[v1.LoginResponse], error) {
	token, s, u, err := h.auth.Login(ctx, req.Msg.User, req.Msg.Password)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.LoginResponse{Token: token, ExpiresAt: stamp(s.ExpiresAt), User: userToWire(u)}), nil
}

// Logout implements murmur.v1.IdentityService.
func (h *Handler) Logout(ctx context.Context, _ *connect.Request[v1.LogoutRequest]) (*connect.Response[v1.LogoutResponse], error) {
	if err := h.auth.Logout(ctx); err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.LogoutResponse{}), nil
}

// WhoAmI implements murmur.v1.IdentityService. For a token it shows the token's name and role.
func (h *Handler) WhoAmI(ctx context.Context, _ *connect.Request[v1.WhoAmIRequest]) (*connect.Response[v1.WhoAmIResponse], error) {
	c := identity.CallerFrom(ctx)
	u := &v1.User{Name: c.Name, Role: c.Role.String()}
	if c.Token == "" {
		stored, err := h.auth.GetUser(ctx, c.User)
		if err != nil {
			return nil, err
		}
		u = userToWire(stored)
	}
	return connect.NewResponse(&v1.WhoAmIResponse{User: u, Version: h.version}), nil
}

// PutUser implements murmur.v1.IdentityService.
func (h *Handler) PutUser(ctx context.Context, req *connect.Request[v1.PutUserRequest]) (*connect.Response[v1.PutUserResponse], error) {
	in := req.Msg.GetUser()
	u, err := h.auth.PutUser(ctx, record.User{Name: in.GetName(), Role: in.GetRole(), Email: in.GetEmail(), Disabled: in.GetDisabled()}, req.Msg.Password)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.PutUserResponse{User: userToWire(u)}), nil
}

// ListUsers implements murmur.v1.IdentityService.
func (h *Handler) ListUsers(ctx context.Context, _ *connect.Request[v1.ListUsersRequest]) (*connect.Response[v1.ListUsersResponse], error) {
	users, err := h.auth.ListUsers(ctx)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.ListUsersResponse{Users: mapped(users, userToWire)}), nil
}

// RemoveUser implements murmur.v1.IdentityService.
func (h *Handler) RemoveUser(ctx context.Context, req *connect.Request[v1.RemoveUserRequest]) (*connect.Response[v1.RemoveUserResponse], error) {
	if err := h.auth.RemoveUser(ctx, req.Msg.Name); err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.RemoveUserResponse{}), nil
}

// CreateToken implements murmur.v1.IdentityService.
func (h *Handler) CreateToken(ctx context.Context, req *connect.Request[v1.CreateTokenRequest]) (*connect.Response[v1.CreateTokenResponse], error) {
	role, err := identity.ParseRole(req.Msg.Role)
	if err != nil {
		return nil, err
	}
	ttl, err := duration(req.Msg.Ttl)
	if err != nil {
		return nil, err
	}
	token, t, err := h.auth.CreateToken(ctx, req.Msg.Name, role, ttl)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.CreateTokenResponse{Info: tokenToWire(t), Token: token}), nil
}

// ListTokens implements murmur.v1.IdentityService.
func (h *Handler) ListTokens(ctx context.Context, _ *connect.Request[v1.ListTokensRequest]) (*connect.Response[v1.ListTokensResponse], error) {
	tokens, err := h.auth.ListTokens(ctx)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.ListTokensResponse{Tokens: mapped(tokens, tokenToWire)}), nil
}

// RevokeToken implements murmur.v1.IdentityService.
func (h *Handler) RevokeToken(ctx context.Context, req *connect.Request[v1.RevokeTokenRequest]) (*connect.Response[v1.RevokeTokenResponse], error) {
	if err := h.auth.RevokeToken(ctx, req.Msg.Id); err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.RevokeTokenResponse{}), nil
}

// CreateJoinToken implements murmur.v1.IdentityService.
func (h *Handler) CreateJoinToken(ctx context.Context, req *connect.Request[v1.CreateJoinTokenRequest]) (*connect.Response[v1.CreateJoinTokenResponse], error) {
	ttl, err := duration(req.Msg.Ttl)
	if err != nil {
		return nil, err
	}
	token, t, err := h.auth.CreateJoinToken(ctx, ttl, req.Msg.Labels, req.Msg.HostName)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.CreateJoinTokenResponse{Token: token, ExpiresAt: stamp(t.ExpiresAt)}), nil
}

// Join implements murmur.v1.IdentityService.
func (h *Handler) Join(ctx context.Context, req *connect.Request[v1.JoinRequest]) (*connect.Response[v1.JoinResponse], error) {
	j, err := h.auth.Join(ctx, req.Msg.Token, req.Msg.Name, req.Msg.Labels, req.Msg.Csr)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.JoinResponse{
		HostId: j.HostID, Certificate: j.Certificate, Ca: j.CA,
		Trust: &v1.TrustEnvelope{Envelope: j.Trust}, Seeders: j.Seeders,
	}), nil
}

// RenewCertificate implements murmur.v1.IdentityService.
func (h *Handler) RenewCertificate(ctx context.Context, req *connect.Request[v1.RenewCertificateRequest]) (*connect.Response[v1.RenewCertificateResponse], error) {
	cert, err := h.auth.Renew(ctx, req.Msg.Csr)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.RenewCertificateResponse{Certificate: cert, Ca: h.auth.CA().Certificate().Raw}), nil
}

// AddBuilder implements murmur.v1.IdentityService.
func (h *Handler) AddBuilder(ctx context.Context, req *connect.Request[v1.AddBuilderRequest]) (*connect.Response[v1.AddBuilderResponse], error) {
	in := req.Msg.GetBuilder()
	if len(in.GetPublicKey()) != ed25519.PublicKeySize {
		return nil, wire.Invalid("the public key has %d bytes, an ed25519 key has %d", len(in.GetPublicKey()), ed25519.PublicKeySize)
	}
	b, err := h.auth.AddBuilder(ctx, builderFromWire(in))
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.AddBuilderResponse{Builder: builderToWire(b)}), nil
}

// ListBuilders implements murmur.v1.IdentityService.
func (h *Handler) ListBuilders(ctx context.Context, _ *connect.Request[v1.ListBuildersRequest]) (*connect.Response[v1.ListBuildersResponse], error) {
	builders, err := h.auth.ListBuilders(ctx)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.ListBuildersResponse{Builders: mapped(builders, builderToWire)}), nil
}

// RevokeBuilder implements murmur.v1.IdentityService.
func (h *Handler) RevokeBuilder(ctx context.Context, req *connect.Request[v1.RevokeBuilderRequest]) (*connect.Response[v1.RevokeBuilderResponse], error) {
	if _, err := h.auth.RevokeBuilder(ctx, req.Msg.KeyId, req.Msg.Reason); err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.RevokeBuilderResponse{}), nil
}

// ListAudit implements murmur.v1.IdentityService.
func (h *Handler) ListAudit(ctx context.Context, req *connect.Request[v1.ListAuditRequest]) (*connect.Response[v1.ListAuditResponse], error) {
	records, err := h.auth.ListAudit(ctx, int(req.Msg.Limit), req.Msg.Before, req.Msg.Object)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.ListAuditResponse{Records: mapped(records, auditToWire)}), nil
}

// VerifyAudit implements murmur.v1.IdentityService.
func (h *Handler) VerifyAudit(ctx context.Context, _ *connect.Request[v1.VerifyAuditRequest]) (*connect.Response[v1.VerifyAuditResponse], error) {
	r, err := h.auth.VerifyAudit(ctx)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.VerifyAuditResponse{Records: r.Records, FirstBad: r.FirstBad, Error: r.Why}), nil
}

func userToWire(u record.User) *v1.User {
	return &v1.User{Name: u.Name, Role: u.Role, Email: u.Email, CreatedAt: stamp(u.CreatedAt), Disabled: u.Disabled}
}

func tokenToWire(t record.Token) *v1.ApiToken {
	return &v1.ApiToken{Id: t.ID, Name: t.Name, Role: t.Role, Owner: t.Owner,
		CreatedAt: stamp(t.CreatedAt), ExpiresAt: stamp(t.ExpiresAt), LastUsedAt: stamp(t.LastUsedAt)}
}

func builderToWire(b record.Builder) *v1.Builder {
	return &v1.Builder{KeyId: b.KeyID, Name: b.Name, PublicKey: b.Public, Services: b.Services, Refs: b.Refs,
		NotBefore: stamp(b.NotBefore), NotAfter: stamp(b.NotAfter), Revoked: b.Revoked}
}

func builderFromWire(b *v1.Builder) record.Builder {
	return record.Builder{KeyID: b.GetKeyId(), Name: b.GetName(), Public: b.GetPublicKey(), Services: b.GetServices(), Refs: b.GetRefs(),
		NotBefore: instant(b.GetNotBefore()), NotAfter: instant(b.GetNotAfter())}
}

func auditToWire(r record.Audit) *v1.AuditRecord {
	return &v1.AuditRecord{Seq: r.Seq, At: stamp(r.At), Who: r.Who, From: r.From, What: r.What, Object: r.Object,
		Before: r.Before, After: r.After, Why: r.Why, Hash: r.Hash}
}

// mapped converts each element.
func mapped[A, B any](in []A, convert func(A) B) []B {
	out := make([]B, len(in))
	for i, a := range in {
		out[i] = convert(a)
	}
	return out
}

// stamp leaves a zero time unset.
func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// instant is a zero time for an unset stamp.
func instant(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

// duration is 0 for an unset one and refuses what is no duration.
func duration(d *durationpb.Duration) (time.Duration, error) {
	if d == nil {
		return 0, nil
	}
	if err := d.CheckValid(); err != nil || d.AsDuration() < 0 {
		return 0, wire.Invalid("the ttl is not a positive duration")
	}
	return d.AsDuration(), nil
}
