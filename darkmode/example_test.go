package darkmode_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/murmuration/murmuration/darkmode"
	"github.com/murmuration/murmuration/darkmode/modes"
	"github.com/murmuration/murmuration/feature"
)

// shipped is what a program carries for its first start without a network; usually go:embed of a file.
var shipped = []byte(`{"revision":1,"flags":[
	{"key":"search.v2","type":"boolean","variants":[{"name":"on","value":true},{"name":"off","value":false}],"on":"on","off":"off","dial":2500},
	{"key":"banner","type":"string","variants":[{"name":"new","value":"Hello, Austria"},{"name":"old","value":"Hello"}],"on":"new","off":"old",
	 "rules":[{"clauses":[{"attribute":"country","op":"in","values":["at"]}],"variant":"new"}]},
	{"key":"page.size","type":"number","variants":[{"name":"big","value":50},{"name":"small","value":20}],"on":"big","off":"small","dial":10000},
	{"key":"shop.mode","type":"mode","variants":[{"name":"normal","value":"normal"},{"name":"read-only","value":"read-only"}],"on":"read-only","off":"normal","dial":10000}
]}`)

// A handle is the fast way to read a flag: made once, read for ever.
func ExampleClient_BoolFlag() {
	flags := darkmode.New(darkmode.Config{Name: "search", Bootstrap: shipped})
	searchV2 := flags.BoolFlag("search.v2", false)
	on := 0
	for i := range 10_000 {
		if searchV2.On(fmt.Sprintf("user-%d", i)) {
			on++
		}
	}
	fmt.Println("on for a quarter of the users:", on > 2400 && on < 2600)
	// Output: on for a quarter of the users: true
}

// Rules look at attributes; a detail tells why.
func ExampleClient_StringDetail() {
	flags := darkmode.New(darkmode.Config{Name: "search", Bootstrap: shipped})
	for _, country := range []string{"at", "de"} {
		d := flags.StringDetail("banner", &feature.Context{TargetingKey: "user-7", Attributes: map[string]any{"country": country}}, "")
		fmt.Println(country, d.Value, d.Variant, d.Reason)
	}
	missing := flags.StringDetail("baner", nil, "default")
	fmt.Println(missing.Value, missing.Code)
	// Output:
	// at Hello, Austria new TARGETING_MATCH
	// de Hello old STATIC
	// default FLAG_NOT_FOUND
}

// Reads by key need no handle.
func ExampleClient_Int() {
	flags := darkmode.New(darkmode.Config{Name: "search", Bootstrap: shipped})
	fmt.Println(flags.Int("page.size", "user-7", 10), flags.Int("no.such.flag", "user-7", 10))
	// Output: 50 10
}

// Status tells how far to trust the answers.
func ExampleClient_Status() {
	flags := darkmode.New(darkmode.Config{Name: "search", Bootstrap: shipped})
	s := flags.Status()
	fmt.Println(s.Source, s.Flags, "stale:", s.Stale)
	// Output: bootstrap 4 stale: true
}

// A mode flag puts a whole service in read-only.
func ExampleClient_ModeFlag() {
	flags := darkmode.New(darkmode.Config{Name: "shop", Bootstrap: shipped})
	mode := flags.ModeFlag("shop.mode")
	m := modes.New(modes.Config{Mode: func(*http.Request) string { return mode.Get("") }})
	shop := m.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "done") }))
	for _, method := range []string{"GET", "POST"} {
		w := httptest.NewRecorder()
		shop.ServeHTTP(w, httptest.NewRequest(method, "/orders", nil))
		fmt.Printf("%s %d %q\n", method, w.Code, w.Header().Get("Retry-After"))
	}
	// Output:
	// GET 200 ""
	// POST 503 "30"
}
