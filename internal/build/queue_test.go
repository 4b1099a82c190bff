package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func newQueue(tb testing.TB) *Queue {
	tb.Helper()
	dir := tb.TempDir()
	q, err := OpenQueue(dir, filepath.Join(dir, "web.git"), testLog(tb))
	if err != nil {
		tb.Fatal(err)
	}
	return q
}

// request makes the n-th request; its commit says n.
func request(n int) Request {
	return Request{Repo: "/srv/web.git", RepoName: "web", Commit: fmt.Sprintf("%040d", n), Ref: "refs/heads/main"}
}

func enqueue(tb testing.TB, q *Queue, n int) string {
	tb.Helper()
	id, err := q.Enqueue(tb.Context(), request(n))
	if err != nil {
		tb.Fatal(err)
	}
	return id
}

// fakeRunner answers builds with what fn says, and remembers what it was asked.
type fakeRunner struct {
	built, announced []string
	fn               func(req Request) (State, error)
}

func number(req Request) string { return strings.TrimLeft(req.Commit, "0") }

func (f *fakeRunner) Build(_ context.Context, req Request) (Result, error) {
	f.built = append(f.built, number(req))
	state, err := Published, error(nil)
	if f.fn != nil {
		state, err = f.fn(req)
	}
	b := Build{ID: req.ID, Commit: req.Commit, State: state}
	if err != nil {
		b.Error = err.Error()
	}
	return Result{Build: b}, err
}

func (f *fakeRunner) Announce(_ context.Context, req Request) {
	f.announced = append(f.announced, number(req))
}

func TestDrainInOrder(t *testing.T) {
	q := newQueue(t)
	for n := 1; n <= 3; n++ {
		enqueue(t, q, n)
	}
	r := &fakeRunner{}
	r.fn = func(req Request) (State, error) {
		switch number(req) {
		case "1":
			enqueue(t, q, 4) // queued while building
		case "2":
			return Failed, errors.New("does not compile")
		}
		return Published, nil
	}
	if err := q.Drain(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"1", "2", "3", "4"}, r.built); diff != "" {
		t.Errorf("built (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"2", "3", "4"}, r.announced); diff != "" {
		t.Errorf("announced (-want +got):\n%s", diff)
	}
	done, err := q.Finished()
	if err != nil || len(done) != 4 || done[1].State != Failed || done[1].Error != "does not compile" || done[3].State != Published {
		t.Errorf("finished = %+v, %v", done, err)
	}
	if left, err := q.Waiting(); err != nil || left != nil {
		t.Errorf("waiting = %+v, %v", left, err)
	}
}

func TestOnlyOneDrains(t *testing.T) {
	q := newQueue(t)
	enqueue(t, q, 1)
	r := &fakeRunner{}
	r.fn = func(Request) (State, error) {
		if err := q.Drain(t.Context(), &fakeRunner{}); !errors.Is(err, ErrDraining) {
			t.Errorf("a second drainer: %v", err)
		}
		return Published, nil
	}
	if err := q.Drain(t.Context(), r); err != nil {
		t.Fatal(err)
	}
}

func TestManyEnqueueAtOnce(t *testing.T) {
	q := newQueue(t)
	var wg sync.WaitGroup
	for n := 1; n <= 8; n++ {
		wg.Go(func() {
			for i := range 5 {
				if _, err := q.Enqueue(t.Context(), request(10*n+i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	jobs, err := q.Waiting()
	if err != nil || len(jobs) != 40 {
		t.Fatalf("%d jobs, %v", len(jobs), err)
	}
	last := map[string]string{}
	for _, j := range jobs {
		n := number(j.Request)
		if n <= last[n[:1]] {
			t.Errorf("%s came after %s", n, last[n[:1]])
		}
		last[n[:1]] = n
	}
}

// TestInterruptedJobs drops the drainer dead while it builds: twice is once too often.
func TestInterruptedJobs(t *testing.T) {
	q := newQueue(t)
	id := enqueue(t, q, 1)
	enqueue(t, q, 2)
	r := &fakeRunner{fn: func(Request) (State, error) { panic("the machine went down") }}
	crash := func() {
		defer func() { _ = recover() }()
		_ = q.Drain(t.Context(), r)
	}
	for range maxAttempts {
		crash()
		// The lock ends with a process; this one lives on, so its file is replaced.
		if err := os.Remove(filepath.Join(q.Dir, "drain.lock")); err != nil {
			t.Fatal(err)
		}
	}
	r.fn = nil
	if err := q.Drain(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"1", "1", "2"}, r.built); diff != "" {
		t.Errorf("built (-want +got):\n%s", diff)
	}
	done, err := q.Finished()
	if err != nil || len(done) != 2 || done[0].ID != id || done[0].State != Failed || !strings.Contains(done[0].Error, "interrupted 2 times") {
		t.Errorf("finished = %+v, %v", done, err)
	}
}

func TestUnfinishedJobsStay(t *testing.T) {
	q := newQueue(t)
	enqueue(t, q, 1)
	r := &fakeRunner{fn: func(Request) (State, error) { return Running, fmt.Errorf("publish: %w", ErrUnreachable) }}
	for range 2 * maxAttempts {
		if err := q.Drain(t.Context(), r); !errors.Is(err, ErrUnreachable) {
			t.Fatalf("error = %v", err)
		}
	}
	jobs, err := q.Waiting()
	if err != nil || len(jobs) != 1 || jobs[0].Attempts != 0 {
		t.Errorf("waiting = %+v, %v", jobs, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := q.Drain(ctx, r); !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v", err)
	}
}

// TestRecordWrittenJobNotRemoved is the other line a crash can fall on: nothing is built twice.
func TestRecordWrittenJobNotRemoved(t *testing.T) {
	q := newQueue(t)
	id := enqueue(t, q, 1)
	if err := q.write("done/"+id+".json", Build{ID: id, State: Published, ReleaseID: "r"}); err != nil {
		t.Fatal(err)
	}
	r := &fakeRunner{}
	if err := q.Drain(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	done, err := q.Finished()
	if err != nil || len(done) != 1 || done[0].ReleaseID != "r" || r.built != nil {
		t.Errorf("finished = %+v, %v; built %v", done, err, r.built)
	}
}

func TestDamagedJobs(t *testing.T) {
	q := newQueue(t)
	enqueue(t, q, 1)
	for name, content := range map[string]string{
		"000000000000-x.json": "{", "000000000000-y.json": "{}", "zzz.json": strings.Repeat(" ", maxJobFile+1),
		".tmp-1.json": "half", "notes.txt": "not ours",
	} {
		if err := os.WriteFile(filepath.Join(q.Dir, "jobs", name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r := &fakeRunner{}
	if err := q.Drain(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	done, err := q.Finished()
	failed := 0
	for _, b := range done {
		if b.State == Failed && strings.Contains(b.Error, "can't be read") {
			failed++
		}
	}
	if err != nil || len(done) != 4 || failed != 3 || len(r.built) != 1 {
		t.Errorf("finished = %+v, %v; built %v", done, err, r.built)
	}
}

func TestEnqueueRefuses(t *testing.T) {
	q := newQueue(t)
	for _, req := range []Request{
		{Repo: "/r", Commit: "main"}, {Repo: "r", Commit: request(1).Commit}, {Repo: "/r", Commit: request(1).Commit, ID: "../../x"},
	} {
		if _, err := q.Enqueue(t.Context(), req); err == nil {
			t.Errorf("%+v was queued", req)
		}
	}
}

func TestOldRecordsAreRemoved(t *testing.T) {
	q := newQueue(t)
	var oldest string
	for n := range keepDone + 3 {
		id := NewID()
		if n == 0 {
			oldest = id
		}
		if err := os.WriteFile(filepath.Join(q.Logs(), id+".log"), []byte("log"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(q.Dir, "done", id+".json"), []byte("{}"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	enqueue(t, q, 1)
	if err := q.Drain(t.Context(), &fakeRunner{}); err != nil {
		t.Fatal(err)
	}
	done, err := q.Finished()
	if err != nil || len(done) != keepDone {
		t.Errorf("%d records, %v", len(done), err)
	}
	if _, err := os.Stat(filepath.Join(q.Logs(), oldest+".log")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the oldest log: %v", err)
	}
}
