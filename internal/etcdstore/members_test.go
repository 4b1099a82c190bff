package etcdstore_test

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/murmuration/murmuration/internal/etcdstore"
)

// patience is how long a test waits for what must happen.
const patience = 30 * time.Second

// cluster is three etcd members in this process: what a store in production talks to.
type cluster struct{ members []*member }

// member is one of a cluster; etcd is nil while it is down.
type member struct {
	conf   embed.Config
	etcd   *embed.Etcd
	endAll context.CancelFunc
	// freeing ends when a member that was taken down has let go of its addresses and files.
	freeing sync.WaitGroup
}

// startCluster returns when all members serve.
func startCluster(tb testing.TB) *cluster {
	tb.Helper()
	c := &cluster{}
	var names []string
	for i, peer := range peerURLs(tb, 3) {
		dir := filepath.Join(tb.TempDir(), "m")
		client := url.URL{Scheme: "unix", Path: dir + ".sock"}
		conf := embed.NewConfig()
		conf.Name, conf.Dir = fmt.Sprintf("m%d", i), dir
		conf.TickMs, conf.ElectionMs = 20, 200
		conf.UnsafeNoFsync = true
		conf.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
		conf.ListenPeerUrls, conf.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
		conf.ListenClientUrls, conf.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
		conf.ListenClientHttpUrls = []url.URL{{Scheme: "unix", Path: dir + ".http"}}
		conf.EnableGRPCGateway = false
		names = append(names, conf.Name+"="+peer.String())
		c.members = append(c.members, &member{conf: *conf})
	}
	tb.Cleanup(c.kill)
	for _, m := range c.members {
		m.conf.InitialCluster = strings.Join(names, ",")
		m.launch(tb)
	}
	for _, m := range c.members {
		m.ready(tb)
	}
	return c
}

// peerURLs finds n free ports. They must be known before a member starts, and stay the same.
func peerURLs(tb testing.TB, n int) []url.URL {
	tb.Helper()
	var urls []url.URL
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			tb.Fatal(err)
		}
		defer l.Close() // only when all are found, so that they differ
		urls = append(urls, url.URL{Scheme: "http", Host: l.Addr().String()})
	}
	return urls
}

// launch starts a member, whose first start does not end before another member is there too.
func (m *member) launch(tb testing.TB) {
	tb.Helper()
	stopping, endAll := context.WithCancel(context.Background())
	conf := m.conf
	conf.GRPCAdditionalServerOptions = []grpc.ServerOption{grpc.ChainStreamInterceptor(cutBy(stopping))}
	etcd, err := embed.StartEtcd(&conf)
	if err != nil {
		endAll()
		tb.Fatal(err)
	}
	m.etcd, m.endAll = etcd, endAll
}

func (m *member) ready(tb testing.TB) {
	tb.Helper()
	select {
	case <-m.etcd.Server.ReadyNotify():
	case err := <-m.etcd.Err():
		tb.Fatal(err)
	case <-time.After(patience):
		tb.Fatalf("%s does not become ready", m.conf.Name)
	}
}

// restart brings a member that is down back with its data.
func (m *member) restart(tb testing.TB) {
	tb.Helper()
	m.freeing.Wait()
	m.launch(tb)
	m.ready(tb)
}

// kill takes a member down without handing its leadership over.
func (m *member) kill() {
	if m.etcd == nil {
		return
	}
	m.endAll()
	m.etcd.Server.HardStop()
	m.freeing.Go(m.etcd.Close) // waits a second for connections of other members
	m.etcd = nil
}

// kill takes all members down.
func (c *cluster) kill() {
	for _, m := range c.members {
		m.kill()
	}
	for _, m := range c.members {
		m.freeing.Wait()
	}
}

// cutStream is a stream that ends with its member, which else waits for its clients to leave.
type cutStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s cutStream) Context() context.Context { return s.ctx }

func cutBy(stopping context.Context) grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
		ctx, cancel := context.WithCancel(ss.Context())
		defer cancel()
		defer context.AfterFunc(stopping, cancel)()
		err := handle(srv, cutStream{ss, ctx})
		if stopping.Err() != nil {
			return rpctypes.ErrGRPCStopped
		}
		return err
	}
}

// config is that of a store that knows all members.
func (c *cluster) config(tb testing.TB) etcdstore.Config {
	cfg := config(tb, shared)
	cfg.Endpoints = nil
	for _, m := range c.members {
		cfg.Endpoints = append(cfg.Endpoints, "unix://"+m.conf.ListenClientUrls[0].Path)
	}
	cfg.OpTimeout, cfg.LeaseTTL = time.Second, 2*time.Second
	return cfg
}

// leader waits for a member that leads and says where it is.
func (c *cluster) leader(tb testing.TB) int {
	tb.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		for i, m := range c.members {
			if m.etcd != nil && m.etcd.Server.Leader() == m.etcd.Server.MemberID() {
				return i
			}
		}
		awaitTick()
	}
	tb.Fatal("the cluster elects no leader")
	return 0
}

// awaitTick lets a member's clock go on before it is asked again.
func awaitTick() { <-time.After(20 * time.Millisecond) }

// moveLeader has another member that is up lead.
func (c *cluster) moveLeader(tb testing.TB) {
	tb.Helper()
	eventually(tb, "move the leader", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		at := c.leader(tb)
		from := c.members[at].etcd.Server
		to := c.members[(at+1)%len(c.members)]
		if to.etcd == nil {
			to = c.members[(at+2)%len(c.members)]
		}
		return from.MoveLeader(ctx, uint64(from.MemberID()), uint64(to.etcd.Server.MemberID()))
	})
}

// killLeader takes the leading member down.
func (c *cluster) killLeader(tb testing.TB) *member {
	tb.Helper()
	m := c.members[c.leader(tb)]
	m.kill()
	return m
}

// progress counts what clients achieve, for a test that disturbs them.
type progress struct {
	made chan struct{}
	stop chan struct{}
	once sync.Once
	wg   sync.WaitGroup
}

func newProgress(tb testing.TB) *progress {
	p := &progress{made: make(chan struct{}), stop: make(chan struct{})}
	tb.Cleanup(p.end)
	return p
}

// step reports an achievement.
func (p *progress) step() {
	select {
	case p.made <- struct{}{}:
	case <-p.stop:
	}
}

// over says whether the clients should end.
func (p *progress) over() bool {
	select {
	case <-p.stop:
		return true
	default:
		return false
	}
}

// await returns after n more achievements.
func (p *progress) await(tb testing.TB, what string, n int) {
	tb.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for i := range n {
		select {
		case <-p.made:
		case <-timer.C:
			tb.Errorf("%s: %d of %d writes went through", what, i, n)
			return
		}
	}
}

// end stops the clients and waits for them.
func (p *progress) end() {
	p.once.Do(func() { close(p.stop) })
	p.wg.Wait()
}
