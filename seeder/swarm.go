package seeder

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"

	"github.com/murmuration/murmuration/internal/record"
	"github.com/murmuration/murmuration/internal/swarm"
	"github.com/murmuration/murmuration/release"
	"github.com/murmuration/murmuration/seeder/depot"
	"github.com/murmuration/murmuration/seeder/tracker"
)

// swarmDesk is the seeder's part in the swarms: it holds the first copy of what hosts need, knows which attached
// host is in which swarm, and pushes peers over the sessions so that nobody waits for an announce. Safe for
// concurrent use.
type swarmDesk struct {
	log     *slog.Logger
	seeder  string
	addr    string // where peers reach the engine
	view    *view
	engine  *swarm.Engine
	depot   *depot.Depot
	tracker *tracker.Tracker
	client  *http.Client // to other seeders
	push    func(host, infohash string)

	wanted *dirtySet // "service/id" of releases to look at
	grown  *dirtySet // infohashes with new peers

	mu      sync.Mutex
	address map[string]string              // swarm address of each attached host
	waiting map[string]map[string]struct{} // hosts still fetching, by infohash
	seeding map[string]string              // infohash by "service/id", "" until it is offered
}

const (
	peersPerPush = 20
	pushEvery    = time.Second
	seedRetry    = 10 * time.Second
)

// attached notes where an attached host's peers reach it. An address without a host part means: where the
// session comes from.
func (d *swarmDesk) attached(host, address, from string) {
	name, port, err := net.SplitHostPort(address)
	if err != nil {
		return // a host without an address fetches, but nobody can fetch from it
	}
	if ip := net.ParseIP(name); name == "" || ip != nil && ip.IsUnspecified() {
		address = net.JoinHostPort(from, port)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.address[host] = address
}

// left takes a host out of every swarm.
func (d *swarmDesk) left(host string) {
	d.mu.Lock()
	delete(d.address, host)
	for _, hosts := range d.waiting {
		delete(hosts, host)
	}
	d.mu.Unlock()
	d.tracker.Forget(host)
}

// joins puts a host into the swarms of the releases it was told to have.
func (d *swarmDesk) joins(host string, desired *murmurv1.Desired, ready func(service, id string) bool) []string {
	var out []string
	for _, t := range desired.Services {
		for _, ref := range t.Stage {
			r, ok := d.view.release(t.Service, ref.Id)
			if !ok {
				continue
			}
			complete := ready(t.Service, ref.Id)
			d.register(r.rec.Infohash, host, complete)
			if !complete {
				out = append(out, r.rec.Infohash)
			}
		}
	}
	return out
}

// register notes how far a host is with a torrent.
func (d *swarmDesk) register(infohash, host string, complete bool) {
	d.mu.Lock()
	address := d.address[host]
	if d.waiting[infohash] == nil {
		d.waiting[infohash] = map[string]struct{}{}
	}
	_, known := d.waiting[infohash][host]
	if complete {
		delete(d.waiting[infohash], host)
	} else {
		d.waiting[infohash][host] = struct{}{}
	}
	d.mu.Unlock()
	if address == "" {
		return
	}
	rack := ""
	if h, ok := d.view.host(host); ok {
		rack = h.Labels["dc"] + "/" + h.Labels["rack"]
	}
	if err := d.tracker.Register(infohash, host, rack, address, complete); err != nil {
		d.log.Debug("a host is in no swarm", "host", host, "infohash", infohash, "err", err)
		return
	}
	if !complete && !known {
		d.grown.mark(infohash)
	}
}

// staged notes that a host has, or cannot have, a release.
func (d *swarmDesk) staged(host, service, id string, ready bool) {
	if r, ok := d.view.release(service, id); ok && ready {
		d.register(r.rec.Infohash, host, true)
	}
}

// peers is whom a host may ask for a torrent: every seeder that has it, then hosts.
func (d *swarmDesk) peers(host, infohash string) *murmurv1.Peers {
	out := &murmurv1.Peers{Infohash: infohash}
	for _, s := range d.view.seederList() {
		address := s.Swarm
		if s.ID == d.seeder {
			address = d.addr
		}
		out.Peers = append(out.Peers, &murmurv1.Peer{HostId: "seeder:" + s.ID, Address: address})
	}
	for _, p := range d.tracker.Peers(infohash, host, peersPerPush) {
		if len(p.HostID) < 7 || p.HostID[:7] != "seeder:" {
			out.Peers = append(out.Peers, &murmurv1.Peer{HostId: p.HostID, Address: p.Addr})
		}
	}
	return out
}

// run pushes peers to those who still fetch, at most once a second for each swarm, and keeps the first copies
// offered, until ctx ends.
func (d *swarmDesk) run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { d.seedWanted(ctx) })
	defer wg.Wait()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.grown.wake:
		}
		for infohash := range d.grown.take() {
			for _, host := range d.fetching(infohash) {
				d.push(host, infohash)
			}
		}
		sleep(ctx, pushEvery)
	}
}

func (d *swarmDesk) fetching(infohash string) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]string, 0, len(d.waiting[infohash]))
	for host := range d.waiting[infohash] {
		out = append(out, host)
	}
	return out
}

// viewChanged looks again at the releases of services that changed.
func (d *swarmDesk) viewChanged(c delta) {
	if c.all {
		for _, key := range d.view.neededReleases() {
			d.wanted.mark(key)
		}
		return
	}
	for _, key := range d.view.neededReleases() {
		if d.firstSight(key) {
			d.wanted.mark(key)
		}
	}
}

// firstSight reports whether a release was not looked at before; what failed then is tried again by the clock.
func (d *swarmDesk) firstSight(key string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, known := d.seeding[key]; known {
		return false
	}
	d.seeding[key] = ""
	return true
}

// seedWanted offers what is needed, one after the other; what fails is tried again.
func (d *swarmDesk) seedWanted(ctx context.Context) {
	retry := time.NewTicker(seedRetry)
	defer retry.Stop()
	failed := map[string]struct{}{}
	for {
		var todo map[string]struct{}
		select {
		case <-ctx.Done():
			return
		case <-d.wanted.wake:
			todo = d.wanted.take()
		case <-retry.C:
			todo = failed
			failed = map[string]struct{}{}
			d.dropUnneeded()
		}
		for key := range todo {
			if err := d.seed(ctx, key); err != nil && ctx.Err() == nil {
				failed[key] = struct{}{}
				d.log.Warn("a release cannot be offered yet", "release", key, "err", err)
			}
		}
	}
}

// seed offers one release's artifact; one that another seeder took in is fetched from it first.
func (d *swarmDesk) seed(ctx context.Context, key string) error {
	r, ok := d.view.releaseByKey(key)
	if !ok {
		return nil
	}
	digest := r.manifest.Artifact.Digest
	if !d.depot.Has(digest) {
		if err := d.importFrom(ctx, r.manifest.Artifact); err != nil {
			return err
		}
	}
	err := d.engine.Seed(ctx, swarm.Spec{Info: r.rec.Info, Infohash: r.rec.Infohash, Path: d.depot.Path(digest)})
	if err != nil {
		return err
	}
	d.mu.Lock()
	d.seeding[key] = r.rec.Infohash
	d.mu.Unlock()
	if err := d.tracker.Register(r.rec.Infohash, "seeder:"+d.seeder, "", d.addr, true); err != nil {
		d.log.Debug("the seeder is not in its own tracker", "err", err)
	}
	return nil
}

// importFrom fetches an artifact from the first other seeder that has it.
func (d *swarmDesk) importFrom(ctx context.Context, a release.Artifact) error {
	errs := []error{fmt.Errorf("artifact %s is not here", a.Digest)}
	for _, s := range d.view.seederList() {
		if s.ID == d.seeder {
			continue
		}
		err := d.importOne(ctx, s.Address, a)
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("seeder %s: %w", s.ID, err))
	}
	return errors.Join(errs...)
}

func (d *swarmDesk) importOne(ctx context.Context, address string, a release.Artifact) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address+artifactPath(a.Digest), nil)
	if err != nil {
		return err
	}
	resp, err := d.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("get artifact: %s", resp.Status)
	}
	return d.depot.Import(ctx, a, resp.Body)
}

func artifactPath(d release.Digest) string { return "/v1/artifacts/" + string(d) }

// dropUnneeded stops offering what nobody needs any more.
func (d *swarmDesk) dropUnneeded() {
	needed := map[string]bool{}
	for _, key := range d.view.neededReleases() {
		needed[key] = true
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for key, infohash := range d.seeding {
		if !needed[key] {
			if infohash != "" {
				d.engine.Drop(infohash)
			}
			delete(d.seeding, key)
			delete(d.waiting, infohash)
		}
	}
}

// progress adds what the engine knows of a swarm.
func (d *swarmDesk) progress(infohash string, p *murmurv1.SwarmProgress) {
	if s, ok := d.engine.Stats(infohash); ok {
		p.SeederSent = s.Uploaded
	}
}

// announceURL implements hostCredentials.
func (d *swarmDesk) announceURL(h *record.Host) string {
	if h.AnnounceKey == "" {
		return ""
	}
	for _, s := range d.view.seedersLocked() {
		if s.ID == d.seeder {
			return "https://" + s.Address + "/announce/" + h.AnnounceKey
		}
	}
	return ""
}

// fallbackURLs implements hostCredentials.
func (d *swarmDesk) fallbackURLs(r *releaseView) []string {
	var out []string
	for _, s := range d.view.seedersLocked() {
		out = append(out, "https://"+s.Address+artifactPath(r.manifest.Artifact.Digest))
	}
	return out
}

// fixedTLS gives the engine's TLS settings.
func fixedTLS(c *tls.Config) func() (*tls.Config, error) {
	return func() (*tls.Config, error) { return c, nil }
}

// sent adds up what the engine sent in all swarms it is in.
func (d *swarmDesk) sent() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	var n int64
	for _, infohash := range d.seeding {
		if s, ok := d.engine.Stats(infohash); ok {
			n += s.Uploaded
		}
	}
	return n
}
