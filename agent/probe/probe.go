// Package probe asks a running release whether it is healthy: over HTTP, by a TCP connection or by a command.
//
// [Checks.Await] decides an activation: every check must succeed several times in a row before its deadline.
// [Checks.Watch] looks after a release that runs: seldom while all is well, at the check's own interval as soon
// as one try has failed. Both return soon after their context ends and leave nothing running.
package probe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/murmuration/murmuration/agent/script"
	"github.com/murmuration/murmuration/release"
)

// Defaults of a check whose recipe leaves the field zero.
const (
	DefaultInterval  = 500 * time.Millisecond
	DefaultTimeout   = 2 * time.Second
	DefaultSuccesses = 3
	DefaultFailures  = 3
	DefaultDeadline  = 60 * time.Second
)

// calm is the least time between two tries of a check that succeeds on a running release.
const calm = 5 * time.Second

// maxBody bounds what is read of an answer, so that its connection can be closed in order.
const maxBody = 64 << 10

// ErrUnhealthy is wrapped by every verdict that a release is not healthy.
var ErrUnhealthy = errors.New("unhealthy")

// Checks are the health checks of one release on one host. They are safe for concurrent use.
type Checks struct {
	// List is the recipe's.
	List []release.Health
	// Addrs maps the name of a port to where it listens on this host; First is the name of the first.
	Addrs map[string]string
	First string
	// Dir and Env are for checks that are commands.
	Dir string
	Env []string
}

// Name is what a check is called in messages: its own name, or what it does.
func Name(h release.Health) string {
	switch {
	case h.Name != "":
		return h.Name
	case h.HTTP != "":
		return "http " + h.HTTP
	case h.TCP != "":
		return "tcp " + h.TCP
	}
	return "exec " + h.Exec
}

// Once tries a check a single time.
func (c Checks) Once(ctx context.Context, h release.Health) error {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(h.Timeout.Std(), DefaultTimeout))
	defer cancel()
	switch {
	case h.HTTP != "":
		return c.http(ctx, h)
	case h.TCP != "":
		return c.tcp(ctx, h)
	case h.Exec != "":
		return c.exec(ctx, h)
	}
	return errors.New("the check has none of http, tcp and exec")
}

func (c Checks) http(ctx context.Context, h release.Health) error {
	target := h.HTTP
	if strings.HasPrefix(target, "/") {
		addr, err := c.addr(cmp.Or(h.Port, c.First))
		if err != nil {
			return err
		}
		target = "http://" + addr + target
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "murmur-agent")
	// A connection of its own each time: a kept one could still lead into the process that is leaving.
	tr := &http.Transport{DisableKeepAlives: true}
	client := http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok && u.Timeout() {
			return fmt.Errorf("GET %s: no answer in time", target)
		}
		return err
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxBody)) // only for the message
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("GET %s: %s: %s", target, resp.Status, firstLine(body))
	}
	return nil
}

func (c Checks) tcp(ctx context.Context, h release.Health) error {
	addr := h.TCP
	if !strings.Contains(addr, ":") {
		var err error
		if addr, err = c.addr(addr); err != nil {
			return err
		}
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	return conn.Close()
}

func (c Checks) exec(ctx context.Context, h release.Health) error {
	r := script.Run(ctx, script.Cmd{
		Phase: "health", Name: Name(h), Run: h.Exec, Dir: c.Dir, Env: c.Env,
		Timeout: cmp.Or(h.Timeout.Std(), DefaultTimeout),
	})
	if !r.OK() {
		return fmt.Errorf("%s: %s", r.Err, firstLine(r.Output))
	}
	return nil
}

// addr is where to reach the named port from this host: an unspecified address becomes the loopback one.
func (c Checks) addr(port string) (string, error) {
	listen, ok := c.Addrs[port]
	if !ok {
		return "", fmt.Errorf("the check asks port %q, which the recipe does not have", port)
	}
	host, num, err := net.SplitHostPort(listen)
	if err != nil {
		return "", fmt.Errorf("port %q listens on %q: %w", port, listen, err)
	}
	if ip := net.ParseIP(host); host == "" || (ip != nil && ip.IsUnspecified()) {
		host = "127.0.0.1"
		if ip != nil && ip.To4() == nil {
			host = "::1"
		}
	}
	return net.JoinHostPort(host, num), nil
}

func firstLine(b []byte) string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(b)), "\n")
	return line[:min(len(line), 200)]
}
