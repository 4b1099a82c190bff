package flagd

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"connectrpc.com/connect"

	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"

	"github.com/murmuration/murmuration/feature"
	"github.com/murmuration/murmuration/internal/identity"
	"github.com/murmuration/murmuration/internal/record"
	"github.com/murmuration/murmuration/internal/wire"
)

// maxGuards bounds how many other records one write may depend on.
const maxGuards = 60

// others is everything else in the store that a definition can depend on.
type others struct {
	flags    map[string]heldFlag
	segments map[string]heldSegment
}

// others reads all flags and segments from the store. Those that cannot be read are left out.
func (a *flagAPI) others(ctx context.Context) (others, error) {
	out := others{map[string]heldFlag{}, map[string]heldSegment{}}
	items, _, err := a.s.cfg.Store.List(ctx, record.KindFlag, "")
	if err != nil {
		return out, err
	}
	for _, item := range items {
		if form, err := record.Decode[record.Flag](item.Value); err == nil {
			out.flags[item.Key.ID] = heldFlag{def: form.Feature(), rev: item.Rev}
		}
	}
	if items, _, err = a.s.cfg.Store.List(ctx, record.KindSegment, ""); err != nil {
		return out, err
	}
	for _, item := range items {
		if form, err := record.Decode[record.Segment](item.Value); err == nil {
			out.segments[item.Key.ID] = heldSegment{form.Feature(), item.Rev}
		}
	}
	return out, nil
}

// checkOthers checks a definition beside those it names, and those that name it. It returns ops that hold the commit
// to what was checked: of two writers who close a cycle together, the second fails.
func (a *flagAPI) checkOthers(ctx context.Context, f *feature.Flag) ([]record.Op, error) {
	st := a.s.view.load()
	for _, key := range st.set.Dependents(f.Key) {
		if name := lostVariant(st.flags[key].def, f); name != "" {
			return nil, wire.Precondition("flag %q needs variant %q of %q as a prerequisite: change that one first", key, name, f.Key)
		}
	}
	segments := segmentsOf(f)
	if len(f.Prerequisites) == 0 && len(segments) == 0 {
		return nil, nil
	}
	o, err := a.others(ctx)
	if err != nil {
		return nil, err
	}
	var flagDefs []feature.Flag
	for _, h := range o.flags {
		flagDefs = append(flagDefs, h.def)
	}
	var segmentDefs []feature.Segment
	for _, h := range o.segments {
		segmentDefs = append(segmentDefs, h.def)
	}
	set, _ := feature.Compile(flagDefs, segmentDefs) // what does not compile cannot be named
	if err := set.Check(f); err != nil {
		return nil, wire.Invalid("flag %q is not valid beside the others: %w", f.Key, err)
	}
	return o.guards(f, segments)
}

// guards are checks of everything a flag depends on, near and far.
func (o others) guards(f *feature.Flag, segments []string) ([]record.Op, error) {
	var ops []record.Op
	for _, key := range segments {
		ops = append(ops, record.Check(record.SegmentKey(key), o.segments[key].rev))
	}
	seen := map[string]bool{f.Key: true}
	todo := []feature.Flag{*f}
	for len(todo) > 0 {
		next := todo[0]
		todo = todo[1:]
		for _, p := range next.Prerequisites {
			if h, ok := o.flags[p.Flag]; ok && !seen[p.Flag] {
				seen[p.Flag] = true
				ops = append(ops, record.Check(record.FlagKey(p.Flag), h.rev))
				todo = append(todo, h.def)
			}
		}
	}
	if len(ops) > maxGuards {
		return nil, wire.Invalid("flag %q depends on %d other flags and segments, at most %d are allowed", f.Key, len(ops), maxGuards)
	}
	return ops, nil
}

// lostVariant is a variant that dependent needs of f and that f does not have; "" if there is none.
func lostVariant(dependent feature.Flag, f *feature.Flag) string {
	for _, p := range dependent.Prerequisites {
		for _, name := range p.Variants {
			if p.Flag == f.Key && !hasVariant(f, name) {
				return name
			}
		}
	}
	return ""
}

// segmentsOf are the segments that a flag's rules name.
func segmentsOf(f *feature.Flag) []string {
	var out []string
	for _, r := range f.Rules {
		for _, c := range r.Clauses {
			if c.Op != feature.OpSegment {
				continue
			}
			for _, raw := range c.Values {
				var key string
				if json.Unmarshal(raw, &key) == nil && !slices.Contains(out, key) && feature.ValidKey(key) {
					out = append(out, key)
				}
			}
		}
	}
	return out
}

// PutSegment creates (version 0) or replaces (the version seen) a segment.
func (a *flagAPI) PutSegment(ctx context.Context, req *connect.Request[murmurv1.PutSegmentRequest]) (*connect.Response[murmurv1.PutSegmentResponse], error) {
	seg, err := wire.ToFlagSegment(req.Msg.Segment)
	if err != nil {
		return nil, err
	}
	if err := validKey(seg.Key); err != nil {
		return nil, err
	}
	if _, err := feature.Compile(nil, []feature.Segment{seg}); err != nil {
		return nil, wire.Invalid("%w", err)
	}
	before, rev, err := a.lookSegment(ctx, seg.Key, seg.Version)
	if err != nil {
		return nil, err
	}
	seg.Version++
	form := record.NewSegment(seg)
	form.UpdatedAt, form.UpdatedBy = time.Now().UTC().Truncate(time.Microsecond), identity.CallerFrom(ctx).Name
	op, err := record.PutForm(record.SegmentKey(seg.Key), form, rev)
	if err != nil {
		return nil, err
	}
	at, err := a.s.cfg.Authority.Commit(ctx, "segment.put", "segment/"+seg.Key, req.Msg.Reason, before, seg, op)
	if err != nil {
		return nil, err
	}
	a.s.view.reach(ctx, at, a.s.cfg.pace.catchUp)
	return connect.NewResponse(&murmurv1.PutSegmentResponse{Segment: wire.FlagSegment(seg)}), nil
}

// lookSegment reads a segment that must be at a version; 0 means it must not exist.
func (a *flagAPI) lookSegment(ctx context.Context, key string, version uint64) (before any, rev int64, err error) {
	items, _, err := a.s.cfg.Store.List(ctx, record.KindSegment, key)
	if err != nil {
		return nil, 0, err
	}
	at := uint64(0)
	for _, item := range items {
		if item.Key.ID != key {
			continue
		}
		form, err := record.Decode[record.Segment](item.Value)
		if err != nil {
			return nil, 0, wire.Precondition("the stored segment cannot be read by this program: %w", err)
		}
		before, rev, at = form.Feature(), item.Rev, form.Version
	}
	if at != version {
		return nil, 0, connect.NewError(connect.CodeAborted, wire.Precondition("segment %q is at version %d, you changed version %d: look again and repeat", key, at, version))
	}
	return before, rev, nil
}

// DeleteSegment deletes a segment that no flag names.
func (a *flagAPI) DeleteSegment(ctx context.Context, req *connect.Request[murmurv1.DeleteSegmentRequest]) (*connect.Response[murmurv1.DeleteSegmentResponse], error) {
	key := req.Msg.Key
	if err := validKey(key); err != nil {
		return nil, err
	}
	o, err := a.others(ctx)
	if err != nil {
		return nil, err
	}
	if _, ok := o.segments[key]; !ok {
		return nil, wire.NotFound("there is no segment %q", key)
	}
	for _, h := range o.flags {
		if slices.Contains(segmentsOf(&h.def), key) {
			return nil, wire.Precondition("segment %q is used by flag %q: change that one first", key, h.def.Key)
		}
	}
	before, rev, err := a.lookSegment(ctx, key, req.Msg.Version)
	if err != nil {
		return nil, err
	}
	at, err := a.s.cfg.Authority.Commit(ctx, "segment.delete", "segment/"+key, req.Msg.Reason, before, nil, record.Drop(record.SegmentKey(key), rev))
	if err != nil {
		return nil, err
	}
	a.s.view.reach(ctx, at, a.s.cfg.pace.catchUp)
	return connect.NewResponse(&murmurv1.DeleteSegmentResponse{}), nil
}
