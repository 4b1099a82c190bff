package identity

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/murmuration/murmuration/internal/record"
)

// Config is what an [Authority] is made of. Store and CA are needed; the zero value of the rest works.
type Config struct {
	Store record.Store
	CA    *CA
	// Log defaults to one that discards.
	Log *slog.Logger
	// Seeders are the base URLs that joining hosts are told.
	Seeders []string
	// SessionTTL is how long a log-in lasts without use. Default 12 h; in use it lasts at most 7 days.
	SessionTTL time.Duration
	// Password is the cost of a password hash. The zero value is the default.
	Password PasswordCost
}

// Authority knows who may do what: users, log-ins, tokens, hosts, builder keys, revocations and the audit
// chain. It is safe for concurrent use, by several processes over one store too.
type Authority struct {
	store   record.Store
	ca      *CA
	log     *slog.Logger
	seeders []string
	ttl     time.Duration

	cache  *cache
	trust  *Trust
	hasher *hasher
	logins *limiter // failed log-ins by user and address
	from   *limiter // failed log-ins by address
	joins  *limiter // failed joins by address
	touch  chan touch

	auditMu sync.Mutex // serialises this process's audited commits; other processes are met by compare-and-swap
}

// defaultSession and maxSession bound a log-in.
const (
	defaultSession = 12 * time.Hour
	maxSession     = 7 * 24 * time.Hour
)

// New makes an authority. It does no I/O; see [Authority.Init] and [Authority.Run].
func New(cfg Config) (*Authority, error) {
	if cfg.Store == nil || cfg.CA == nil {
		return nil, errors.New("identity: a store and a CA are needed")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.SessionTTL <= 0 {
		cfg.SessionTTL = defaultSession
	}
	a := &Authority{
		store: cfg.Store, ca: cfg.CA, log: cfg.Log, seeders: cfg.Seeders, ttl: cfg.SessionTTL,
		trust:  NewTrust(cfg.CA.Certificate()),
		logins: newLimiter(5, 30*time.Second),
		from:   newLimiter(30, 2*time.Second),
		joins:  newLimiter(30, 2*time.Second),
		touch:  make(chan touch, 64),
	}
	a.cache = newCache(cfg.Store, a.log, a.onTrust)
	a.hasher = newHasher(cfg.Password)
	return a, nil
}

// Init prepares the store: it stores the CA's certificate, or checks that the fleet's is ours, makes sure that
// there is a trust bundle, and reads the revocations. Every server calls it once at its start, with retries of its own.
func (a *Authority) Init(ctx context.Context) error {
	if err := a.initCA(ctx); err != nil {
		return fmt.Errorf("identity: %w", err)
	}
	if err := a.initTrust(ctx); err != nil {
		return fmt.Errorf("identity: %w", err)
	}
	return nil
}

func (a *Authority) initCA(ctx context.Context) error {
	value, err := record.Encode(record.FleetCA{Certificate: a.ca.Certificate().Raw})
	if err != nil {
		return err
	}
	if _, err = a.store.Commit(ctx, record.Put(record.CAKey, value, 0)); !errors.Is(err, record.ErrConflict) {
		return err
	}
	stored, _, err := load[record.FleetCA](ctx, a.store, record.CAKey)
	if err != nil {
		return err
	}
	cert, err := x509.ParseCertificate(stored.Certificate)
	if err != nil {
		return fmt.Errorf("the stored CA certificate: %w", err)
	}
	if got := Fingerprint(cert); got != a.ca.Fingerprint() {
		return fmt.Errorf("this server's CA (%.16s…) is not the fleet's (%.16s…): copy the CA file of the other servers here", a.ca.Fingerprint(), got)
	}
	return nil
}

// Run keeps the authority up to date with the store, so that revocations reach this process within
// milliseconds and log-ins are checked while the store is down. It returns when ctx ends. Before it has
// run for a moment, checks read the store.
func (a *Authority) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.cache.run(ctx) })
	g.Go(func() error { return a.runTouches(ctx) })
	g.Go(func() error { return a.runSweeps(ctx) })
	return g.Wait()
}

// CA is the fleet's certificate authority.
func (a *Authority) CA() *CA { return a.ca }

// Trust is the trust bundle in force. It follows the store while [Authority.Run] runs.
func (a *Authority) Trust() *Trust { return a.trust }

// Revoked is a [RevokedFunc] that knows the revocations in the store, as of the last update.
func (a *Authority) Revoked(p Peer, cert *x509.Certificate) error {
	if r, ok := a.cache.revocation(record.RevokedSerial(Serial(cert))); ok {
		return fmt.Errorf("%w: %s", ErrRevoked, r.Reason)
	}
	r, ok := a.cache.revocation(record.RevokedPeer(string(p.Kind), p.ID))
	if ok && !cert.NotBefore.Add(Backdate).After(r.At) {
		return fmt.Errorf("%w: %s", ErrRevoked, r.Reason)
	}
	return nil
}

// load reads and decodes one record, and its revision.
func load[T record.Form](ctx context.Context, store getter, k record.Key) (T, int64, error) {
	var zero T
	item, err := store.Get(ctx, k)
	if err != nil {
		return zero, 0, err
	}
	form, err := record.Decode[T](item.Value)
	if err != nil {
		return zero, 0, fmt.Errorf("%s: %w", k, err)
	}
	return form, item.Rev, nil
}

// put makes the op that stores a form.
func put[T record.Form](k record.Key, form T, ifRev int64) (record.Op, error) {
	value, err := record.Encode(form)
	if err != nil {
		return record.Op{}, err
	}
	return record.Put(k, value, ifRev), nil
}

// now is the time as records keep it: UTC, to the microsecond.
func now() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }
