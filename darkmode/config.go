package darkmode

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Config says where a client's truth comes from. Its zero value is a client without any: every read gives the
// default in the call. All durations have useful defaults at zero.
type Config struct {
	// Name names the program to people, in flagd's lists and in reports; 1 to 128 bytes. Default "unnamed".
	Name string
	// Servers are base URLs of flagd, for example "https://flagd.example:8443". One that fails is left for the next.
	// With none the client works offline.
	Servers []string
	// Token is sent as a bearer token, to Servers only. It is not needed when HTTPClient shows a certificate.
	Token string
	// HTTPClient carries the requests; its Timeout is not used. Default: a client of its own with short limits
	// for connecting. Give one to use TLS certificates of your own, and leave HTTP/2 on (ForceAttemptHTTP2): then all
	// requests share the stream's connection.
	HTTPClient *http.Client
	// CopyFile is where the last good state is kept on disk; "" keeps none. Its folder is made when missing. Several
	// processes of one machine may share it.
	CopyFile string
	// Bootstrap is a state shipped with the program, as GET /v1/snapshot answers it. It may be nil.
	Bootstrap []byte
	// Attributes hold for every evaluation of this process, such as host, rack or version, where the caller's
	// context does not say otherwise. The client keeps the map: do not change it.
	Attributes map[string]any
	// Logger may be nil: nothing is logged then.
	Logger *slog.Logger
	// StaleAfter is how long the server may be silent before the state counts as stale. Default 1 min.
	StaleAfter time.Duration
	// PollInterval is the time between snapshots while streams are refused; jittered. Default 30 s.
	PollInterval time.Duration
	// ReportInterval is the time between reports of evaluation counts; jittered. Default 1 min; negative sends none.
	ReportInterval time.Duration
	// MinBackoff and MaxBackoff bound the waits between attempts to connect, which double and are jittered down
	// to their half. Default 1 s and 30 s.
	MinBackoff, MaxBackoff time.Duration
	// MaxBytes bounds one event, one snapshot and the disk copy. Default 64 MiB.
	MaxBytes int
}

const (
	maxName        = 128
	defaultName    = "unnamed"
	requestTimeout = 30 * time.Second
	// maxRetryAfter bounds what a server can ask for.
	maxRetryAfter = 5 * time.Minute
)

func (c *Config) setDefaults() {
	if c.Name == "" {
		c.Name = defaultName
	}
	c.Name = strings.ToValidUTF8(c.Name[:min(len(c.Name), maxName)], "")
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&c.StaleAfter, time.Minute}, {&c.PollInterval, 30 * time.Second}, {&c.ReportInterval, time.Minute},
		{&c.MinBackoff, time.Second}, {&c.MaxBackoff, 30 * time.Second},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	c.MaxBackoff = max(c.MaxBackoff, c.MinBackoff)
	if c.MaxBytes <= 0 {
		c.MaxBytes = 64 << 20
	}
}

// servers parses the base URLs and leaves out, with an error in the log, those that are none: a typo must not
// keep a service from starting.
func (c *Config) servers() []*url.URL {
	var out []*url.URL
	for _, s := range c.Servers {
		u, err := url.Parse(s)
		if err == nil && (u.Scheme != "http" && u.Scheme != "https" || u.Host == "") {
			err = fmt.Errorf("it must start with https:// or http:// and name a host")
		}
		if err != nil {
			c.Logger.Error("flag server is left out: not a base URL", "server", s, "err", err)
			continue
		}
		out = append(out, u)
	}
	return out
}

// httpClient returns the client to use and whether it is ours to close.
func (c *Config) httpClient() (client *http.Client, owned bool) {
	if c.HTTPClient != nil {
		shared := *c.HTTPClient
		shared.Timeout = 0 // it would end streams; every other request has its own
		return &shared, false
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSHandshakeTimeout = 5 * time.Second
	t.ResponseHeaderTimeout = 10 * time.Second
	return &http.Client{Transport: t}, true
}
