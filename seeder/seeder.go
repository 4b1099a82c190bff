package seeder

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"

	"github.com/murmuration/murmuration/internal/identity"
	"github.com/murmuration/murmuration/internal/record"
	"github.com/murmuration/murmuration/internal/swarm"
	"github.com/murmuration/murmuration/internal/wire"
	"github.com/murmuration/murmuration/release"
	"github.com/murmuration/murmuration/rollout"
	"github.com/murmuration/murmuration/seeder/depot"
	"github.com/murmuration/murmuration/seeder/tracker"
)

// Seeder is one process of the control side of deploys. Make it with [New], run it with [Seeder.Run].
type Seeder struct {
	cfg       Config
	log       *slog.Logger
	listener  net.Listener
	address   string
	serverTLS *tls.Config

	view      *view
	roster    *roster
	sessions  *sessions
	loop      *loop
	desk      *swarmDesk
	depot     *depot.Depot
	tracker   *tracker.Tracker
	engine    *swarm.Engine
	scripts   *scriptShelf
	rollouts  *rolloutAPI
	services  *serviceAPI
	fleet     *fleetAPI
	followers *followers
	forward   *forwarder
	metrics   *metrics
	lastSeen  *dirtySet
}

// New makes a seeder: it opens its folder, the torrent engine and the API's listener, and talks to nobody yet.
func New(cfg Config) (*Seeder, error) {
	if err := cfg.applyDefaults(); err != nil {
		return nil, err
	}
	s := &Seeder{cfg: cfg, log: cfg.Log, roster: newRoster(), view: newView(cfg.Log), lastSeen: newDirtySet()}
	s.scripts = newScriptShelf(s.log, cfg.Store)
	var err error
	if s.listener, s.address, err = listen(cfg.Listen, cfg.Advertise); err != nil {
		return nil, fmt.Errorf("seeder: %w", err)
	}
	if err := s.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("seeder: %w", err), s.close())
	}
	s.connect()
	return s, nil
}

// open makes the parts that hold files and sockets.
// dealers is to how many hosts at once the first seed deals different pieces of one release.
const dealers = 64

func (s *Seeder) open() error {
	auth := s.cfg.Authority
	names := append([]string{hostPart(s.address), hostPart(s.listener.Addr().String())}, s.cfg.Names...)
	cert, err := identity.NewServerCert(auth.CA(), s.cfg.ID, names...)
	if err != nil {
		return err
	}
	roots := auth.CA().Pool()
	s.serverTLS = identity.ServerConfig(roots, cert.Certificate, auth.Revoked)
	s.depot, err = depot.New(depot.Config{
		Dir: filepath.Join(s.cfg.Dir, "depot"), Store: s.cfg.Store, Audit: auth, Verifier: trustVerifier{auth.Trust()},
		Info: swarm.MakeInfo, Log: s.log, Keep: s.cfg.KeepReleases,
		Who: func(ctx context.Context) string { return identity.CallerFrom(ctx).Name },
	})
	if err != nil {
		return err
	}
	swarmListen := s.cfg.SwarmListen
	if swarmListen == "" {
		swarmListen = net.JoinHostPort(hostPart(s.cfg.Listen), "0")
	}
	s.engine, err = swarm.New(swarm.Config{
		Dir: filepath.Join(s.cfg.Dir, "swarm"), Listen: swarmListen, Name: "seeder:" + s.cfg.ID,
		ServerTLS: fixedTLS(identity.PeerServerConfig(roots, cert.Certificate, auth.Revoked)),
		ClientTLS: fixedTLS(identity.PeerClientConfig(roots, cert.Certificate, "", auth.Revoked)),
		PeerName: func(cs tls.ConnectionState) (string, error) {
			p, err := identity.PeerOfConn(cs)
			return p.Name(), err
		},
		UpRate: s.cfg.UpRate, Deal: dealers, Logger: s.log,
	})
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig: identity.SeederClientConfig(roots, cert.Certificate, ""), ForceAttemptHTTP2: true,
		ResponseHeaderTimeout: headerTimeout, MaxIdleConnsPerHost: 4, IdleConnTimeout: idleTimeout,
	}}
	s.tracker = tracker.New(tracker.Config{Known: s.view.knowsTorrent, Host: s.view.hostOfKey})
	s.desk = &swarmDesk{
		log: s.log, seeder: s.cfg.ID, view: s.view, engine: s.engine, depot: s.depot, tracker: s.tracker, client: client,
		addr: s.cfg.SwarmAdvertise, wanted: newDirtySet(), grown: newDirtySet(),
		address: map[string]string{}, waiting: map[string]map[string]struct{}{}, seeding: map[string]string{},
	}
	if s.desk.addr == "" {
		s.desk.addr = s.engine.Addr().String()
	}
	return nil
}

// connect makes the parts that are only memory and joins them all.
func (s *Seeder) connect() {
	auth := s.cfg.Authority
	gate, judge := s.cfg.Gate, s.cfg.Judge
	if gate == nil {
		gate = recordGate{s.view}
	}
	if judge == nil {
		judge = noJudge{}
	}
	s.loop = &loop{
		log: s.log, store: s.cfg.Store, view: s.view, roster: s.roster, seeder: s.cfg.ID, address: s.address,
		lostAfter: s.cfg.LostAfter, audit: auth, commands: make(chan *command),
		hands: &hands{log: s.log, store: s.cfg.Store, view: s.view, gate: gate, judge: judge, tell: s.cfg.Notifier},
	}
	s.sessions = &sessions{
		log: s.log, seeder: s.cfg.ID, view: s.view, roster: s.roster, outbox: s, scripts: s.scripts,
		caller: sessionHost, byHost: map[string]*session{}, staged: s.desk.staged,
		attached: s.desk.attached, ended: s.sessionEnded, counters: s.cfg.Counters,
	}
	s.desk.push = func(host, infohash string) {
		if sess := s.sessions.of(host); sess != nil {
			sess.markPeers(infohash)
		}
	}
	s.view.onChange = func(d delta) {
		s.sessions.viewChanged(d)
		s.desk.viewChanged(d)
	}
	s.rollouts = &rolloutAPI{
		store: s.cfg.Store, view: s.view, roster: s.roster, loop: s.loop, scripts: s.scripts, audit: auth,
		planner: &planner{view: s.view, roster: s.roster, judged: s.cfg.Judge != nil}, swarm: s.desk.progress,
	}
	s.services = &serviceAPI{store: s.cfg.Store, view: s.view, audit: auth}
	s.fleet = &fleetAPI{store: s.cfg.Store, view: s.view, roster: s.roster, audit: auth}
	s.followers = &followers{log: s.log, roster: s.roster, loop: s.loop, counters: s.cfg.Counters}
	s.forward = newForwarder(s)
	s.metrics = newMetrics(s)
}

// Addr is the address of the API, as others reach it.
func (s *Seeder) Addr() string { return s.address }

// SwarmAddr is the address of the torrent engine, as peers reach it.
func (s *Seeder) SwarmAddr() string { return s.desk.addr }

// Ready is closed once the seeder has read the store and can be used.
func (s *Seeder) Ready() <-chan struct{} { return s.view.ready }

// Leading reports whether this seeder runs the rollouts now.
func (s *Seeder) Leading() bool { return s.loop.reigning.ended() != nil }

// Run serves until ctx ends or a part fails for good. A store that cannot be reached is no such failure: the
// seeder goes on with what it knows. Run may be called once.
func (s *Seeder) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return ignoreEnd(ctx, s.view.run(ctx, s.cfg.Store)) })
	g.Go(func() error { return ignoreEnd(ctx, s.serve(ctx)) })
	g.Go(func() error { return s.loop.run(ctx) })
	g.Go(func() error { return s.desk.run(ctx) })
	g.Go(func() error { return s.scripts.run(ctx) })
	g.Go(func() error { return s.keepLastSeen(ctx) })
	g.Go(func() error { return s.follow(ctx) })
	g.Go(func() error { return s.introduce(ctx) })
	g.Go(func() error { return s.housekeep(ctx) })
	return errors.Join(g.Wait(), s.close())
}

// ignoreEnd drops the error of a part that ended because it was asked to.
func ignoreEnd(ctx context.Context, err error) error {
	if ctx.Err() != nil || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

func (s *Seeder) close() error {
	var errs []error
	if err := s.listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		errs = append(errs, err)
	}
	if s.engine != nil {
		errs = append(errs, s.engine.Close())
	}
	if s.depot != nil {
		errs = append(errs, s.depot.Close())
	}
	return errors.Join(errs...)
}

// introduce writes down where this seeder is.
func (s *Seeder) introduce(ctx context.Context) error {
	form := record.Seeder{ID: s.cfg.ID, Address: s.address, Swarm: s.desk.addr, Started: time.Now().UTC()}
	op, err := record.PutForm(record.SeederKey(s.cfg.ID), form, record.Any)
	if err != nil {
		return err
	}
	for wait := retryFirst; ctx.Err() == nil; wait = min(2*wait, retryLast) {
		if _, err = s.cfg.Store.Commit(ctx, op); err == nil {
			return nil
		}
		s.log.Warn("the seeder's address could not be stored", "err", err)
		sleep(ctx, wait)
	}
	return nil
}

// housekeep lets go of what nobody needs: releases (the leader), files (everyone).
func (s *Seeder) housekeep(ctx context.Context) error {
	ticker := time.NewTicker(10 * time.Minute)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		s.tracker.Purge()
		if s.Leading() {
			if _, err := s.depot.Retain(identity.WithCaller(ctx, itself)); err != nil {
				s.log.Warn("releases could not be cleaned up", "err", err)
			}
		}
		if err := s.depot.Clean(ctx); err != nil {
			s.log.Warn("files could not be cleaned up", "err", err)
		}
	}
}

// Verdict brings in the judge's word on a step. It fails with an error about leadership on a seeder that does
// not lead, and is refused when the rollout is over; a verdict on another than the current step changes nothing.
func (s *Seeder) Verdict(ctx context.Context, service, rolloutID string, step int, v rollout.Verdict, reason string) error {
	act := auditedAct{
		caller: identity.Caller{Name: "judge"}, what: "rollout.verdict", object: "rollout/" + service + "/" + rolloutID,
		why: reason, after: map[string]any{"step": step, "verdict": v},
	}
	_, err := s.loop.steer(ctx, service, rolloutID, act, func(at rollout.At) rollout.Event {
		return rollout.VerdictGiven{At: at, Step: step, Verdict: v, Reason: wire.Text(reason, wire.MaxText)}
	})
	return err
}

// The outbox of sessions.

func (s *Seeder) desired(host string) (*murmurv1.Desired, map[string]uint64) {
	return s.view.desired(host, s.desk)
}

func (s *Seeder) peers(host, infohash string) *murmurv1.Peers { return s.desk.peers(host, infohash) }

func (s *Seeder) joins(host string, d *murmurv1.Desired) []string {
	return s.desk.joins(host, d, func(service, id string) bool {
		rep, _, _ := s.roster.report(host, service)
		for _, st := range rep.GetStaged() {
			if st.GetReleaseId() == id && st.GetReady() {
				return true
			}
		}
		return false
	})
}

func (s *Seeder) trustBundle() ([]byte, int64) {
	_, _, trust, _ := s.view.fleetState()
	return trust.Envelope, trust.Version
}

// sessionEnded takes note of a host that is gone.
func (s *Seeder) sessionEnded(host string) {
	s.desk.left(host)
	s.lastSeen.mark(host)
}

// lastSeenEvery is how often the ends of sessions are written down, together.
const lastSeenEvery = 5 * time.Second

// keepLastSeen stores when hosts were last seen, so that it survives a restart.
func (s *Seeder) keepLastSeen(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.lastSeen.wake:
		}
		sleep(ctx, lastSeenEvery)
		for host := range s.lastSeen.take() {
			s.storeLastSeen(ctx, host)
		}
	}
}

func (s *Seeder) storeLastSeen(ctx context.Context, host string) {
	p, ok := s.roster.get(host)
	if !ok || ctx.Err() != nil {
		return
	}
	_, err := record.Modify(ctx, s.cfg.Store, hostKey(host), func(h *record.Host) error {
		h.LastSeen = p.lastSeen.UTC()
		if p.version != "" {
			h.Version = p.version
		}
		return nil
	})
	if err != nil && !errors.Is(err, record.ErrNotFound) && ctx.Err() == nil {
		s.log.Warn("when a host was last seen could not be stored", "host", host, "err", err)
	}
}

// trustVerifier is the depot's view of the trust bundle.
type trustVerifier struct{ trust *identity.Trust }

func (v trustVerifier) VerifyRelease(_ context.Context, m release.Manifest, manifest, envelope []byte) (string, error) {
	return v.trust.VerifyPublish(m, manifest, envelope, time.Now())
}

// quietLog passes the HTTP server's complaints (mostly failed handshakes) on at debug level.
func quietLog(l *slog.Logger) *log.Logger {
	return slog.NewLogLogger(l.Handler(), slog.LevelDebug)
}
