package flagd

import (
	"net/http"
	"strings"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/murmuration/murmuration/proto/murmur/v1/murmurv1connect"

	"github.com/murmuration/murmuration/feature"
	"github.com/murmuration/murmuration/internal/identity"
	"github.com/murmuration/murmuration/internal/wire"
)

// maxRequest bounds a request of the write side, in bytes.
const maxRequest = 4 << 20

// route is one entry of the server's table.
type route struct {
	pattern string
	handler http.Handler
}

// readHandler answers a request of somebody who may read.
type readHandler func(w http.ResponseWriter, r *http.Request, who string)

// routes is the one table of everything this server answers, but for POST /ofrep/v1/evaluate/flags/{key}, which goes past
// the router; see [Server.routed].
func (s *Server) routes() []route {
	rpcPath, rpc := murmurv1connect.NewFlagServiceHandler(&flagAPI{s: s},
		connect.WithInterceptors(wire.Errors(s.log), s.cfg.Authority.Interceptor()), connect.WithReadMaxBytes(maxRequest))
	return []route{
		{rpcPath, s.cfg.Authority.Middleware(rpc)},
		{"GET /v1/flags/{key}", s.native(s.plainFlag)},
		{"GET /v1/snapshot", s.native(s.snapshot)},
		{"GET /v1/stream", s.native(s.nativeStream)},
		{"POST /v1/streams/{id}/ack", s.native(s.ackStream)},
		{"POST /v1/usage", s.native(s.reportUsage)},
		{"POST " + ofrepBulkPath, s.ofrep(s.ofrepBulk)},
		{"GET " + ofrepEventPath, http.HandlerFunc(s.ofrepEvents)},
		{"OPTIONS /ofrep/v1/", http.HandlerFunc(preflight)},
		{"OPTIONS /v1/", http.HandlerFunc(preflight)},
		{"GET /healthz", http.HandlerFunc(s.healthz)},
		{"GET /readyz", http.HandlerFunc(s.readyz)},
		{"GET /metrics", s.native(s.serveMetrics)},
		{"/", http.HandlerFunc(notFound)},
	}
}

// routed is the whole server. The single evaluation comes first: it is nearly all of the traffic.
func (s *Server) routed() http.Handler {
	mux := http.NewServeMux()
	for _, r := range s.routes() {
		mux.Handle(r.pattern, r.handler)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			if key, ok := strings.CutPrefix(r.URL.Path, ofrepFlagPrefix); ok {
				s.ofrepFlag(w, r, key)
				return
			}
		}
		mux.ServeHTTP(w, r)
	})
}

// native guards a route of /v1.
func (s *Server) native(h readHandler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		allowOrigin(w, r)
		who, err := s.readers.admit(r)
		if err != nil {
			status := identity.HTTPStatus(err)
			fail(w, status, codeOf(status), s.say(status, err))
			return
		}
		h(w, r, who)
	})
}

// ofrep guards a route of OFREP.
func (s *Server) ofrep(h readHandler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		allowOrigin(w, r)
		who, err := s.readers.admit(r)
		if err != nil {
			status := identity.HTTPStatus(err)
			ofrepFail(w, status, "", string(feature.General), s.say(status, err))
			return
		}
		h(w, r, who)
	})
}

// say is what a caller is told of why it was not admitted. What is not meant for callers stays in the log.
func (s *Server) say(status int, err error) string {
	if status >= http.StatusInternalServerError {
		return wire.ToConnect(s.log, err).Message()
	}
	return err.Error()
}

// preflight answers what browsers ask before they send.
func preflight(w http.ResponseWriter, _ *http.Request) {
	h := w.Header()
	h["Access-Control-Allow-Origin"] = anyOrigin
	h.Set("Access-Control-Allow-Methods", "GET, POST, OPTIONS")
	h.Set("Access-Control-Allow-Headers", "Content-Type, If-None-Match, Authorization, X-API-Key, Last-Event-ID")
	h.Set("Access-Control-Max-Age", "7200")
	w.WriteHeader(http.StatusNoContent)
}

// notFound answers paths that do not exist, in JSON like everything else.
func notFound(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/ofrep/") {
		ofrepFail(w, http.StatusNotFound, "", string(feature.General), "there is no such path: this server speaks OFREP 0.3")
		return
	}
	fail(w, http.StatusNotFound, "NOT_FOUND", "there is no such path")
}

// healthz says that the process runs.
func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) { writeText(w, http.StatusOK, "ok\n") }

// readyz says whether there are flags to serve. Old ones count: they are better than none.
func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	st := s.view.load()
	if st.rev == 0 {
		writeText(w, http.StatusServiceUnavailable, notReady+"\n")
		return
	}
	s.begin(w.Header(), st)
	writeText(w, http.StatusOK, "ready\n")
}

func (s *Server) serveMetrics(w http.ResponseWriter, r *http.Request, _ string) {
	promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{}).ServeHTTP(w, r)
}

func writeText(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text)) // a client that went away needs no answer
}
