// Command flags measures the flag service: reads in process and over HTTP, and how fast and at what price a change
// reaches everyone.
//
//	go run ./scripts/bench/flags [-only inproc,http,kill,bytes,reconnect] [-rounds 7] [-no-goff] [-out out/bench/flags.json]
//
// The subjects of the HTTP scenarios run as processes of their own and are measured in turns, so that what else the
// machine does falls on all of them:
//
//   - murmur: flagd's handler over plain HTTP, with 100 flags and a bearer token that it checks, beside an etcd
//   - bare: a net/http handler that reads the body and answers the same bytes as flagd, always
//   - bare-json: the same, but it decodes the request and encodes the answer with encoding/json
//   - goff: GO Feature Flag's relay of the version in goff.go, built through the module proxy, with 100 flags
//
// The load comes from this process on the same machine, through connections that do next to nothing besides reading
// and writing, so what differs is the server. Ratios are medians of the ratios within each round.
//
// Kills go to flagd over TLS. Subject murmur has clients that only read their event stream: what the server
// and the machine's network can do. Subject murmur-sdk has whole darkmode clients, which decode, apply and
// acknowledge, all in this one process, so that at 10,000 of them their work and not the server's
// decides. The clock runs from before the operator's request to when the last byte of the kill is read, or
// the SDK's subscribers have been told.
//
// Rows say in their unit when a value is computed from measured sizes instead of measured.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"

	"github.com/murmuration/murmuration/scripts/bench/rows"
)

type options struct {
	only   string
	rounds int
	noGoff bool
	out    string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if len(os.Args) > 1 && os.Args[1] == serveArg {
		exit("serve", serve(ctx, os.Args[2:]))
	}
	var o options
	flag.StringVar(&o.only, "only", "inproc,http,kill,bytes,reconnect", "which parts to run")
	flag.IntVar(&o.rounds, "rounds", 7, "rounds of each subject, and kills of each kill scenario")
	flag.BoolVar(&o.noGoff, "no-goff", false, "leave GO Feature Flag's relay out (its first build takes minutes)")
	flag.StringVar(&o.out, "out", "out/bench/flags.json", "where to write the rows")
	flag.Parse()
	exit("bench flags", run(ctx, o))
}

func exit(what string, err error) {
	if err != nil {
		slog.New(slog.NewTextHandler(os.Stderr, nil)).Error(what, "err", err)
		os.Exit(1)
	}
	if what == "serve" {
		os.Exit(0)
	}
}

func run(ctx context.Context, o options) error {
	all := []rows.Row{rows.First("go run ./scripts/bench/flags", o.rounds)}
	for _, part := range []struct {
		name string
		run  func(context.Context, options) ([]rows.Row, error)
	}{
		{"inproc", benchInProcess}, {"http", benchHTTP}, {"kill", benchKill}, {"bytes", benchBytes}, {"reconnect", benchReconnect},
	} {
		if !slices.Contains(strings.Split(o.only, ","), part.name) {
			continue
		}
		fmt.Fprintf(os.Stderr, "measuring: %s\n", part.name)
		r, err := part.run(ctx, o)
		if err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
		all = append(all, r...)
	}
	return rows.Report(os.Stdout, all, o.out)
}

// quantile is the q-quantile of sorted values, q from 0 to 1.
func quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

func median(v []float64) float64 { return quantile(slices.Sorted(slices.Values(v)), 0.5) }
