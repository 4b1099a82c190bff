package flagd

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"connectrpc.com/connect"

	murmurv1 "github.com/murmuration/murmuration/proto/murmur/v1"
	"github.com/murmuration/murmuration/proto/murmur/v1/murmurv1connect"

	"github.com/murmuration/murmuration/feature"
	"github.com/murmuration/murmuration/internal/record"
	"github.com/murmuration/murmuration/internal/wire"
)

// flagAPI is the handler of FlagService. What it reads comes from memory, but for histories.
type flagAPI struct {
	murmurv1connect.UnimplementedFlagServiceHandler
	s *Server
}

// present converts a definition in force.
func (a *flagAPI) present(h heldFlag) *murmurv1.Flag {
	out := wire.Flag(h.def)
	out.UpdatedAt, out.UpdatedBy = wire.Time(h.at), h.by
	out.DialNow = int32(h.def.DialAt(time.Now()))
	return out
}

// ListFlags lists the flags in force, in order of key.
func (a *flagAPI) ListFlags(_ context.Context, req *connect.Request[murmurv1.ListFlagsRequest]) (*connect.Response[murmurv1.ListFlagsResponse], error) {
	st, out := a.s.view.load(), &murmurv1.ListFlagsResponse{}
	if st.rev == 0 {
		return nil, wire.Unavailable(notReady)
	}
	for key := range st.set.Keys() {
		h := st.flags[key]
		tagged := req.Msg.Tag == "" || slices.Contains(h.def.Tags, req.Msg.Tag)
		if tagged && (!req.Msg.KilledOnly || h.def.Killed != nil) {
			out.Flags = append(out.Flags, a.present(h))
		}
	}
	return connect.NewResponse(out), nil
}

// GetFlag reads one flag; one whose stored definition cannot be used comes as it is stored.
func (a *flagAPI) GetFlag(ctx context.Context, req *connect.Request[murmurv1.GetFlagRequest]) (*connect.Response[murmurv1.GetFlagResponse], error) {
	if err := validKey(req.Msg.Key); err != nil {
		return nil, err
	}
	h, ok := a.s.view.load().flags[req.Msg.Key]
	if !ok {
		form, rev, err := a.read(ctx, req.Msg.Key)
		if err != nil {
			return nil, err
		}
		h = heldFlag{form.Feature(), rev, form.UpdatedAt, form.UpdatedBy}
	}
	return connect.NewResponse(&murmurv1.GetFlagResponse{Flag: a.present(h)}), nil
}

func validKey(key string) error {
	if !feature.ValidKey(key) {
		return wire.Invalid("%.140q is not a key: up to 128 letters, digits, '.', '_' and '-', beginning with a letter or digit", key)
	}
	return nil
}

// read reads a flag from the store.
func (a *flagAPI) read(ctx context.Context, key string) (record.Flag, int64, error) {
	form, rev, err := record.Get[record.Flag](ctx, a.s.cfg.Store, record.FlagKey(key))
	if errors.Is(err, record.ErrNotFound) {
		return form, 0, wire.NotFound("there is no flag %q: %w", key, err)
	}
	return form, rev, err
}

// Bounds of a history's page.
const (
	defaultVersions = 20
	maxVersions     = 200
)

// ListFlagVersions reads the newest versions of a flag, also of one that was deleted.
func (a *flagAPI) ListFlagVersions(ctx context.Context, req *connect.Request[murmurv1.ListFlagVersionsRequest]) (*connect.Response[murmurv1.ListFlagVersionsResponse], error) {
	if err := validKey(req.Msg.Key); err != nil {
		return nil, err
	}
	limit := int(req.Msg.Limit)
	if limit <= 0 {
		limit = defaultVersions
	}
	limit = min(limit, maxVersions)
	// One more than asked for, because each is shown beside the one before.
	entries, err := a.versions(ctx, req.Msg.Key, limit+1)
	if err != nil {
		return nil, err
	}
	out := &murmurv1.ListFlagVersionsResponse{}
	for i, e := range entries[:min(limit, len(entries))] {
		v := e.Form
		m := &murmurv1.FlagVersion{Flag: wire.Flag(v.Flag.Feature()), By: v.By, Reason: v.Reason, What: v.What, At: wire.Time(v.At)}
		if i+1 < len(entries) {
			m.Changes = wire.FlagChanges(feature.Diff(entries[i+1].Form.Flag.Feature(), v.Flag.Feature()))
		}
		out.Versions = append(out.Versions, m)
	}
	return connect.NewResponse(out), nil
}

// versions reads the newest versions of a flag, newest first.
func (a *flagAPI) versions(ctx context.Context, key string, limit int) ([]record.Entry[record.FlagVersion], error) {
	items, err := a.s.cfg.Store.Page(ctx, record.KindFlagLog, record.FlagVersionPrefix(key), "", limit, true)
	if err != nil {
		return nil, err
	}
	return record.DecodeItems[record.FlagVersion](items)
}

// ListSegments lists the segments in force, in order of key.
func (a *flagAPI) ListSegments(context.Context, *connect.Request[murmurv1.ListSegmentsRequest]) (*connect.Response[murmurv1.ListSegmentsResponse], error) {
	st, out := a.s.view.load(), &murmurv1.ListSegmentsResponse{}
	for _, h := range st.segments {
		out.Segments = append(out.Segments, wire.FlagSegment(h.def))
	}
	slices.SortFunc(out.Segments, func(a, b *murmurv1.FlagSegment) int { return compareText(a.Key, b.Key) })
	return connect.NewResponse(out), nil
}

// EvaluateFlag answers as a service would be answered. It is not counted as a use.
func (a *flagAPI) EvaluateFlag(_ context.Context, req *connect.Request[murmurv1.EvaluateFlagRequest]) (*connect.Response[murmurv1.EvaluateFlagResponse], error) {
	ctx := feature.Context{TargetingKey: req.Msg.TargetingKey}
	if text := req.Msg.AttributesJson; text != "" {
		if err := json.Unmarshal([]byte(text), &ctx.Attributes); err != nil {
			return nil, wire.Invalid("attributes_json is not a JSON object: %w", err)
		}
	}
	st := a.s.view.load()
	if st.rev == 0 {
		return nil, wire.Unavailable(notReady)
	}
	res := st.set.Evaluate(req.Msg.Key, &ctx, time.Now())
	out := &murmurv1.EvaluateFlagResponse{
		Variant: res.Variant, Reason: string(res.Reason), ErrorCode: string(res.Code), ErrorDetails: res.Detail,
		Version: res.Version, Killed: res.Killed,
	}
	if res.Code == "" {
		out.ValueJson = string(st.appendValue(nil, &res))
	}
	return connect.NewResponse(out), nil
}

// FlagUsage sums what this server counted and was told in the last 24 hours.
func (a *flagAPI) FlagUsage(_ context.Context, req *connect.Request[murmurv1.FlagUsageRequest]) (*connect.Response[murmurv1.FlagUsageResponse], error) {
	st, out, now := a.s.view.load(), &murmurv1.FlagUsageResponse{}, time.Now()
	for key := range st.set.Keys() {
		if req.Msg.Key != "" && req.Msg.Key != key {
			continue
		}
		sum := a.s.usage.of(key, now)
		out.Uses = append(out.Uses, &murmurv1.FlagUse{
			Key: key, LastReadAt: wire.Time(sum.last), ByVariant: sum.byVariant, ByClient: sum.byClient,
		})
	}
	if req.Msg.Key != "" && len(out.Uses) == 0 {
		return nil, wire.NotFound("there is no flag %q", req.Msg.Key)
	}
	return connect.NewResponse(out), nil
}
