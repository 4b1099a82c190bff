package gin_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/gin-gonic/gin"

	darkmodegin "github.com/murmuration/murmuration/darkmode/gin"
	"github.com/murmuration/murmuration/darkmode/modes"
	"github.com/murmuration/murmuration/feature"
)

func TestHandler(t *testing.T) {
	gin.SetMode(gin.ReleaseMode)
	mode, before, calls := feature.ModeNormal, 0, 0
	m := modes.New(modes.Config{Mode: func(*http.Request) string { return mode }})
	engine := gin.New()
	engine.Use(gin.Recovery(), func(*gin.Context) { before++ }, darkmodegin.Handler(m))
	engine.GET("/json", func(c *gin.Context) { calls++; c.JSON(200, gin.H{"n": 1}) })
	engine.GET("/cookie", func(c *gin.Context) {
		calls++
		c.SetCookie("id", "1", 1, "/", "", false, true)
		c.String(200, "secret")
	})
	engine.GET("/stream", func(c *gin.Context) { calls++; c.String(200, "a"); c.Writer.Flush(); _, _ = c.Writer.WriteString("b") })
	engine.GET("/empty", func(c *gin.Context) { calls++; c.Status(204) })
	engine.GET("/panic", func(c *gin.Context) { calls++; panic("x") })
	engine.POST("/json", func(c *gin.Context) { calls++; c.Status(201) })
	do := func(method, path string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		engine.ServeHTTP(w, httptest.NewRequest(method, path, nil))
		return w
	}
	type want struct {
		method, path string
		code         int
		body         string
	}
	check := func(mode string, wants ...want) {
		t.Helper()
		for _, x := range wants {
			if w := do(x.method, x.path); w.Code != x.code || x.body != "" && w.Body.String() != x.body {
				t.Errorf("%s: %s %s: %d %q, want %d %q", mode, x.method, x.path, w.Code, w.Body, x.code, x.body)
			}
		}
	}
	check(mode, want{"GET", "/json", 200, `{"n":1}`}, want{"GET", "/cookie", 200, "secret"}, want{"GET", "/stream", 200, "ab"}, want{"GET", "/empty", 204, ""},
		want{"GET", "/panic", 500, ""}, want{"GET", "/nowhere", 404, "404 page not found"}, want{"POST", "/json", 201, ""})
	mode = feature.ModeReadOnly
	check(mode, want{"GET", "/json", 200, `{"n":1}`}, want{"POST", "/json", 503, ""})
	mode = feature.ModeStatic
	was := calls
	check(mode, want{"GET", "/json", 200, `{"n":1}`}, want{"GET", "/stream", 200, "ab"}, want{"GET", "/cookie", 503, ""}, want{"GET", "/empty", 503, ""},
		want{"GET", "/panic", 503, ""}, want{"GET", "/nowhere", 503, ""}, want{"POST", "/json", 503, ""})
	if calls != was {
		t.Errorf("handlers ran in static mode")
	}
	if w := do("GET", "/json"); w.Header().Get("Content-Type") != "application/json; charset=utf-8" {
		t.Errorf("stored without its type: %v", w.Header())
	}
	if before != 17 {
		t.Errorf("the handler before ran %d times, want 17", before)
	}
}
