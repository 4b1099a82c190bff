package build

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/murmuration/murmuration/release"
)

const (
	// maxChanges is how many commits a change record made here holds; the newest are kept.
	maxChanges = 200
	// maxWalk is how many commits are looked at to find them.
	maxWalk = 20000
	// walkOn is how many commits more are looked at when only painted ones are left: commits of one second, or of
	// clocks that lie, may still paint what was found.
	walkOn = 64
	// maxStatFiles and maxStatBlob bound the work of counting changed lines: a commit that touches more files,
	// or a file that is larger, counts as far as it was counted.
	maxStatFiles = 2000
	maxStatBlob  = 1 << 20
	// statBudget is the time given to counting all changed lines; later commits count as zero.
	statBudget = 10 * time.Second
	// maxLine bounds a name or subject taken from a commit, in bytes.
	maxLine = 300
)

// CommitInfo is what a manifest says about its commit.
type CommitInfo struct {
	// Commit is the commit itself, with annotated tags followed.
	Commit    string
	Author    string
	Subject   string
	Reviewers []string
	When      time.Time
}

// Info describes a commit.
func (r *Repo) Info(commit string) (CommitInfo, error) {
	c, err := r.commit(commit)
	if err != nil {
		return CommitInfo{}, err
	}
	return CommitInfo{
		Commit: c.Hash.String(), Author: person(c.Author), Subject: subject(c.Message),
		Reviewers: reviewers(c.Message), When: c.Committer.When.UTC(),
	}, nil
}

// Changes lists the commits reachable from commit and not from previous, newest first, at most 200. With
// previous empty, unknown (a shallow or rewritten history) or equal to commit, it is the commit alone.
func (r *Repo) Changes(ctx context.Context, commit, previous string) ([]release.Change, error) {
	tip, err := r.commit(commit)
	if err != nil {
		return nil, err
	}
	found := []*object.Commit{tip}
	if base, err := r.commit(previous); previous != "" && err == nil && base.Hash != tip.Hash {
		if found, err = r.between(ctx, tip, base); err != nil {
			return nil, fmt.Errorf("list the commits since %s: %w", previous, err)
		}
	}
	stats, cancel := context.WithTimeout(ctx, statBudget)
	defer cancel()
	out := make([]release.Change, len(found))
	for i, c := range found {
		out[i] = release.Change{
			Commit: c.Hash.String(), Author: person(c.Author), Reviewers: reviewers(c.Message), Subject: subject(c.Message),
		}
		out[i].Added, out[i].Removed = r.changedLines(stats, c)
	}
	return out, ctx.Err()
}

// between walks both histories by time, newest first, painting what base reaches, until only painted commits
// are left to walk and walkOn further: git's own way, exact unless clocks lie a lot.
func (r *Repo) between(ctx context.Context, tip, base *object.Commit) ([]*object.Commit, error) {
	old := map[plumbing.Hash]bool{base.Hash: true}
	seen := map[plumbing.Hash]bool{base.Hash: true, tip.Hash: true}
	queue := &byTime{tip, base}
	heap.Init(queue)
	var found []*object.Commit
	for n, extra := 0, walkOn; queue.Len() > 0 && n < maxWalk && extra > 0; n++ {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(*queue, func(c *object.Commit) bool { return !old[c.Hash] }) {
			extra--
		}
		c := heap.Pop(queue).(*object.Commit)
		if !old[c.Hash] {
			found = append(found, c)
		}
		for _, h := range c.ParentHashes {
			painted := old[c.Hash] && !old[h]
			old[h] = old[h] || old[c.Hash]
			if seen[h] && !painted {
				continue
			}
			seen[h] = true
			p, err := r.git.CommitObject(h)
			if errors.Is(err, plumbing.ErrObjectNotFound) {
				continue // a shallow history ends here
			}
			if err != nil {
				return nil, err
			}
			heap.Push(queue, p)
		}
	}
	return newest(found, old), nil
}

// newest drops what was painted after it was found, and what was found twice.
func newest(found []*object.Commit, old map[plumbing.Hash]bool) []*object.Commit {
	have := map[plumbing.Hash]bool{}
	kept := slices.DeleteFunc(found, func(c *object.Commit) bool {
		drop := old[c.Hash] || have[c.Hash]
		have[c.Hash] = true
		return drop
	})
	return kept[:min(len(kept), maxChanges)]
}

// byTime is a heap of commits, the newest first.
type byTime []*object.Commit

func (q byTime) Len() int           { return len(q) }
func (q byTime) Less(i, j int) bool { return q[i].Committer.When.After(q[j].Committer.When) }
func (q byTime) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *byTime) Push(x any)        { *q = append(*q, x.(*object.Commit)) }
func (q *byTime) Pop() any {
	last := len(*q) - 1
	c := (*q)[last]
	*q = (*q)[:last]
	return c
}

// changedLines counts a commit's lines against its parent. A merge changes nothing itself. Counting is best
// effort: what can't be read or takes too long counts as zero.
func (r *Repo) changedLines(ctx context.Context, c *object.Commit) (added, removed int) {
	if len(c.ParentHashes) > 1 || ctx.Err() != nil {
		return 0, 0
	}
	to, err := c.Tree()
	if err != nil {
		return 0, 0
	}
	from := &object.Tree{}
	if len(c.ParentHashes) == 1 {
		if from, err = r.parentTree(c); err != nil {
			return 0, 0
		}
	}
	changes, err := object.DiffTreeContext(ctx, from, to)
	if err != nil {
		return 0, 0
	}
	for _, ch := range changes[:min(len(changes), maxStatFiles)] {
		a, d := fileLines(ctx, ch)
		added, removed = added+a, removed+d
	}
	return added, removed
}

func (r *Repo) parentTree(c *object.Commit) (*object.Tree, error) {
	p, err := r.git.CommitObject(c.ParentHashes[0])
	if err != nil {
		return nil, err
	}
	return p.Tree()
}

func fileLines(ctx context.Context, ch *object.Change) (added, removed int) {
	from, to, err := ch.Files()
	if err != nil || ctx.Err() != nil {
		return 0, 0
	}
	for _, f := range []*object.File{from, to} {
		if f != nil && f.Size > maxStatBlob {
			return 0, 0
		}
	}
	switch {
	case from == nil && to == nil:
		return 0, 0
	case from == nil:
		return countLines(to), 0
	case to == nil:
		return 0, countLines(from)
	}
	patch, err := ch.PatchContext(ctx)
	if err != nil {
		return 0, 0
	}
	for _, s := range patch.Stats() {
		added, removed = added+s.Addition, removed+s.Deletion
	}
	return added, removed
}

// countLines counts the lines of a whole text file; a binary one has none.
func countLines(f *object.File) int {
	if bin, err := f.IsBinary(); err != nil || bin {
		return 0
	}
	rd, err := f.Reader()
	if err != nil {
		return 0
	}
	defer rd.Close()
	b, err := io.ReadAll(io.LimitReader(rd, maxStatBlob))
	if err != nil || len(b) == 0 {
		return 0
	}
	n := strings.Count(string(b), "\n")
	if b[len(b)-1] != '\n' {
		n++
	}
	return n
}

func person(s object.Signature) string {
	return oneLine(s.Name + " <" + s.Email + ">")
}

func subject(message string) string {
	line, _, _ := strings.Cut(strings.TrimLeft(message, "\n"), "\n")
	return oneLine(line)
}

// oneLine makes text from a commit safe to show and to store: valid UTF-8, no control characters, bounded.
func oneLine(s string) string {
	s = strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || (r >= 0x7f && r < 0xa0) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, "\ufffd")))
	if len(s) > maxLine {
		s = strings.ToValidUTF8(s[:maxLine], "") + "..."
	}
	return s
}

// reviewers returns the values of the Reviewed-by trailers: such lines in the last paragraph of the message,
// which is not the subject's (git-interpret-trailers(1)). At most 20, none twice.
func reviewers(message string) []string {
	paragraphs := strings.Split(strings.TrimSpace(strings.ReplaceAll(message, "\r\n", "\n")), "\n\n")
	if len(paragraphs) < 2 {
		return nil
	}
	var out []string
	for line := range strings.SplitSeq(paragraphs[len(paragraphs)-1], "\n") {
		key, value, ok := strings.Cut(line, ":")
		who := oneLine(value)
		if ok && strings.EqualFold(strings.TrimSpace(key), "Reviewed-by") && who != "" && !slices.Contains(out, who) && len(out) < 20 {
			out = append(out, who)
		}
	}
	return out
}
