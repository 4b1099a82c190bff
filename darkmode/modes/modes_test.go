package modes

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/murmuration/murmuration/darkmode"
	"github.com/murmuration/murmuration/darkmode/darkmodetest"
	"github.com/murmuration/murmuration/feature"
)

// site is a service whose mode a test sets.
type site struct {
	mode    string
	calls   int
	handler http.Handler
	m       *Middleware
}

func newSite(cfg Config, serve http.HandlerFunc) *site {
	s := &site{mode: feature.ModeNormal}
	cfg.Mode = func(*http.Request) string { return s.mode }
	s.m = New(cfg)
	s.handler = s.m.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.calls++
		serve(w, r)
	}))
	return s
}

func (s *site) do(method, target string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, nil)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	return w
}

func hello(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "hello %s", r.URL.Path) }

func TestReadOnlyRefusesUnsafeMethods(t *testing.T) {
	s := newSite(Config{
		Exempt: func(r *http.Request) bool { return r.URL.Path == "/login" },
		Safe:   func(r *http.Request) bool { return r.URL.Path == "/search" },
	}, hello)
	for _, mode := range []string{feature.ModeNormal, feature.ModeReadOnly, "frozn"} {
		s.mode = mode
		for _, method := range []string{"GET", "HEAD", "OPTIONS", "TRACE", "POST", "PUT", "PATCH", "DELETE", "PURGE"} {
			want := http.StatusOK
			if mode == feature.ModeReadOnly && strings.Contains("POST PUT PATCH DELETE PURGE", method) {
				want = http.StatusServiceUnavailable
			}
			if w := s.do(method, "/x"); w.Code != want || (want != 200) != (w.Header().Get("Retry-After") == "30") {
				t.Errorf("%s in %s: %d, Retry-After %q", method, mode, w.Code, w.Header().Get("Retry-After"))
			}
		}
		for _, path := range []string{"/login", "/search"} {
			if w := s.do("POST", path); w.Code != http.StatusOK {
				t.Errorf("POST %s in %s: %d", path, mode, w.Code)
			}
		}
	}
	api := httptest.NewRecorder()
	s.mode = feature.ModeReadOnly
	r := httptest.NewRequest("POST", "/x", strings.NewReader("{}"))
	r.Header.Set("Content-Type", "application/json")
	s.handler.ServeHTTP(api, r)
	var body struct {
		Error struct {
			Code, Mode string
			RetryAfter int `json:"retry_after"`
		}
	}
	if err := json.Unmarshal(api.Body.Bytes(), &body); err != nil || body.Error.Mode != "read-only" || body.Error.RetryAfter != 30 {
		t.Errorf("JSON refusal %s: %v", api.Body, err)
	}
}

func TestStaticServesTheLastGoodAnswer(t *testing.T) {
	n := 0
	s := newSite(Config{}, func(w http.ResponseWriter, r *http.Request) {
		n++
		w.Header().Set("X-N", fmt.Sprint(n))
		switch r.URL.Path {
		case "/broken":
			if n > 1 {
				w.WriteHeader(500)
			}
		}
		fmt.Fprintf(w, "page %s", r.URL.Path)
	})
	s.do("GET", "/broken")
	s.do("GET", "/broken") // a 500 does not replace a 200
	s.do("GET", "/a?x=1")
	calls := s.calls
	s.mode = feature.ModeStatic
	for _, target := range []string{"/broken", "/a?x=1"} {
		w := s.do("GET", target, "Cookie", "session=1")
		path, _, _ := strings.Cut(target, "?")
		if w.Code != 200 || w.Body.String() != "page "+path || w.Header().Get("Age") == "" || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/plain") {
			t.Errorf("GET %s: %d %q %v", target, w.Code, w.Body, w.Header())
		}
		if w := s.do("HEAD", target); w.Code != 200 || w.Body.Len() != 0 || w.Header().Get("Content-Length") == "0" {
			t.Errorf("HEAD %s: %d %q", target, w.Code, w.Body)
		}
	}
	for _, tt := range [][2]string{{"GET", "/a?x=2"}, {"GET", "/other"}, {"POST", "/a?x=1"}, {"DELETE", "/a?x=1"}, {"OPTIONS", "/a?x=1"}} {
		if w := s.do(tt[0], tt[1]); w.Code != 503 || w.Header().Get("Retry-After") == "" {
			t.Errorf("%s %s: %d", tt[0], tt[1], w.Code)
		}
	}
	if s.calls != calls {
		t.Errorf("the handler was asked %d times in static mode", s.calls-calls)
	}
}

// TestNothingPrivateIsRemembered: each of these was answered 200, and none may be shown to somebody else.
func TestNothingPrivateIsRemembered(t *testing.T) {
	header := func(name, value string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { w.Header().Set(name, value); fmt.Fprint(w, "secret") }
	}
	for name, tt := range map[string]struct {
		serve   http.HandlerFunc
		request []string
	}{
		"Set-Cookie":           {header("Set-Cookie", "id=1"), nil},
		"private":              {header("Cache-Control", "max-age=60, Private"), nil},
		"private fields":       {header("Cache-Control", `private="x"`), nil},
		"no-store":             {header("Cache-Control", "no-store"), nil},
		"Vary *":               {header("Vary", "Accept, *"), nil},
		"request authorised":   {hello, []string{"Authorization", "Bearer x"}},
		"request with API key": {hello, []string{"X-Api-Key", "x"}},
		"request with cookie":  {hello, []string{"Cookie", "a=b"}},
		"request for a range":  {hello, []string{"Range", "bytes=0-1"}},
		"websocket":            {hello, []string{"Upgrade", "websocket"}},
		"event stream":         {header("Content-Type", "text/event-stream"), nil},
		"partial":              {func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(206) }, nil},
		"shorter than promised": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "9")
			fmt.Fprint(w, "x")
		}, nil},
		"too large": {func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, strings.Repeat("x", 101)) }, nil},
		"a panic":   {func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "half"); panic(http.ErrAbortHandler) }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(Config{MaxAnswer: 100}, tt.serve)
			func() {
				defer func() { _ = recover() }()
				s.do("GET", "/", tt.request...)
			}()
			s.mode = feature.ModeStatic
			if w := s.do("GET", "/", tt.request...); w.Code != 503 {
				t.Errorf("it was remembered: %d %q", w.Code, w.Body)
			}
		})
	}
	s := newSite(Config{}, hello)
	r := httptest.NewRequest("GET", "/", nil)
	r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{{}}}
	if s.m.storableRequest(r) {
		t.Error("a request with a client certificate counts as anybody's")
	}
	s = newSite(Config{Public: func(*http.Request) bool { return true }}, hello)
	s.do("GET", "/", "Cookie", "seen=1")
	s.mode = feature.ModeStatic
	if w := s.do("GET", "/"); w.Code != 200 {
		t.Errorf("a public page was not remembered: %d", w.Code)
	}
}

func TestVary(t *testing.T) {
	vary := "Accept-Language"
	s := newSite(Config{}, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Vary", vary)
		fmt.Fprint(w, r.Header.Get("Accept-Language"), r.Header.Get("Accept"))
	})
	s.do("GET", "/", "Accept-Language", "de")
	s.do("GET", "/", "Accept-Language", "en")
	s.mode = feature.ModeStatic
	for lang, want := range map[string]int{"de": 200, "en": 200, "fr": 503} {
		if w := s.do("GET", "/", "Accept-Language", lang); w.Code != want || want == 200 && w.Body.String() != lang {
			t.Errorf("%s: %d %q", lang, w.Code, w.Body)
		}
	}
	// When the resource begins to vary by more, what is filed under less must not be shown.
	s.mode, vary = feature.ModeNormal, "Accept, Accept-Language"
	s.do("GET", "/", "Accept-Language", "de", "Accept", "x")
	s.mode = feature.ModeStatic
	if w := s.do("GET", "/", "Accept-Language", "en"); w.Code != 503 {
		t.Errorf("an answer that varied by less: %q", w.Body)
	}
	if w := s.do("GET", "http://other.example/", "Accept-Language", "de", "Accept", "x"); w.Code != 503 {
		t.Errorf("another host's answer: %q", w.Body)
	}
}

// TestCacheStaysWithinItsBound draws requests and answers; what is kept is right and within the limit.
func TestCacheStaysWithinItsBound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := newCache(4000)
		for i := range 60 {
			r := httptest.NewRequest("GET", fmt.Sprintf("/%d", rapid.IntRange(0, 9).Draw(t, "path")), nil)
			r.Header.Set("Accept", fmt.Sprint(rapid.IntRange(0, 2).Draw(t, "accept")))
			h := http.Header{}
			if rapid.Bool().Draw(t, "vary") {
				h.Set("Vary", "Accept")
			}
			a := &answer{header: h, body: make([]byte, rapid.IntRange(0, 2000).Draw(t, "size"))}
			c.put(r, a)
			if got := c.get(r); got != nil && got != a && a.size() < 3000 {
				t.Fatalf("step %d: another answer than the last", i)
			}
			sum, kept := 0, 0
			for el := c.order.Front(); el != nil; el = el.Next() {
				sum += el.Value.(*entry).size
				kept++
			}
			byResource := 0
			for _, v := range c.vary {
				byResource += v.kept
			}
			if sum != c.bytes || sum > c.limit || kept != len(c.byKey) || kept != byResource {
				t.Fatalf("step %d: %d bytes, counted %d; %d answers, %d by key, %d by resource", i, sum, c.bytes, kept, len(c.byKey), byResource)
			}
		}
	})
}

// TestWithAFlagOverTheNetwork puts a service that is under load through its modes by a real flag and real sockets.
func TestWithAFlagOverTheNetwork(t *testing.T) {
	srv := darkmodetest.New(t, darkmodetest.Mode("shop.mode", feature.ModeNormal))
	flags := darkmode.New(darkmode.Config{Name: "shop", Servers: []string{srv.URL}, ReportInterval: -1})
	changed := make(chan darkmode.Event, 64)
	defer flags.Subscribe(func(e darkmode.Event) { changed <- e })()
	flags.Start(t.Context())
	defer flags.Close()
	<-flags.Ready()
	mode := flags.ModeFlag("shop.mode")
	m := New(Config{Mode: func(*http.Request) string { return mode.Get("") }})
	web := httptest.NewServer(m.Wrap(http.HandlerFunc(hello)))
	defer web.Close()
	status := func(method, path string) int {
		r, err := http.NewRequestWithContext(t.Context(), method, web.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		_, _ = io.Copy(io.Discard, resp.Body)
		return resp.StatusCode
	}
	set := func(to string) {
		want := srv.Put(darkmodetest.Mode("shop.mode", to))
		for e := range changed {
			if e.Kind == darkmode.FlagsChanged && e.Status.Revision >= want {
				return
			}
		}
	}
	status("GET", "/a")
	for _, step := range []struct {
		mode                string
		post, known, unseen int
	}{
		{feature.ModeReadOnly, 503, 200, 200}, {feature.ModeStatic, 503, 200, 503}, {feature.ModeNormal, 200, 200, 200},
	} {
		set(step.mode)
		if p, k, u := status("POST", "/a"), status("GET", "/a"), status("GET", "/unseen-"+step.mode); p != step.post || k != step.known || u != step.unseen {
			t.Errorf("%s: POST %d, GET %d, unseen GET %d", step.mode, p, k, u)
		}
	}
	set(feature.ModeStatic)
	srv.SetBroken(true)
	srv.DropStreams() // the mode holds without a server
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				if got := status("GET", "/a"); got != 200 {
					t.Errorf("GET in static mode: %d", got)
				}
			}
		})
	}
	wg.Wait()
}

// TestFlushReachesTheCaller: remembering does not buffer.
func TestFlushReachesTheCaller(t *testing.T) {
	s := newSite(Config{}, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "a")
		w.(http.Flusher).Flush()
		_ = http.NewResponseController(w).Flush()
	})
	if w := s.do("GET", "/"); !w.Flushed {
		t.Error("not flushed")
	}
}
