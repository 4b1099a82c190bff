package darkmode

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// statusError is an answer other than the one hoped for.
type statusError struct {
	what   string
	status int
	// wait is what Retry-After asks for; 0 when it does not.
	wait time.Duration
}

// Error names the request, the status and, where there is one, the next step.
func (e *statusError) Error() string {
	hint := ""
	switch e.status {
	case http.StatusUnauthorized, http.StatusForbidden:
		hint = ": check the token or certificate, which needs the role viewer"
	case http.StatusNotFound:
		hint = ": is this the address of flagd?"
	}
	return fmt.Sprintf("%s: %d %s%s", e.what, e.status, http.StatusText(e.status), hint)
}

// refused reports whether the server said no to this client rather than to this request.
func (e *statusError) refused() bool {
	return e.status == http.StatusUnauthorized || e.status == http.StatusForbidden
}

// request makes a request to the current server. Headers that every request needs are set.
func (c *Client) request(ctx context.Context, method string, body []byte, path string, query url.Values) (*http.Request, error) {
	u := c.servers[int(c.server.Load()%uint64(len(c.servers)))].JoinPath(path)
	u.RawQuery = query.Encode()
	r, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if c.cfg.Token != "" {
		r.Header.Set("Authorization", "Bearer "+c.cfg.Token)
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	return r, nil
}

// errorOf drains a little of an unwanted answer and tells what it was.
func errorOf(what string, resp *http.Response) error {
	_, _ = io.CopyN(io.Discard, resp.Body, 4<<10) // so that the connection can be used again
	return &statusError{what: what, status: resp.StatusCode, wait: retryAfter(resp.Header.Get("Retry-After"), time.Now())}
}

// retryAfter reads the header (RFC 9110, section 10.2.3): seconds or a date.
func retryAfter(value string, now time.Time) time.Duration {
	var d time.Duration
	if s, err := strconv.ParseUint(value, 10, 31); err == nil {
		d = time.Duration(s) * time.Second
	} else if at, err := http.ParseTime(value); err == nil {
		d = at.Sub(now)
	}
	return min(max(d, 0), maxRetryAfter)
}

// poll reads one snapshot and takes it.
func (c *Client) poll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	r, err := c.request(ctx, http.MethodGet, nil, "/v1/snapshot", nil)
	if err != nil {
		return err
	}
	st := c.state.Load()
	if c.etag != "" && st.revision == c.etagRevision && st.source == FromServer {
		r.Header.Set("If-None-Match", c.etag)
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return fmt.Errorf("read snapshot: %w", err)
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusNotModified:
		c.confirmed()
		return nil
	case http.StatusOK:
		return c.takeSnapshot(resp)
	}
	return errorOf("read snapshot", resp)
}

// olderPolls is how many snapshots in a row may be older than the state before the client believes that the store
// went back rather than that a replica lags.
const olderPolls = 3

func (c *Client) takeSnapshot(resp *http.Response) error {
	data, err := io.ReadAll(io.LimitReader(resp.Body, int64(c.cfg.MaxBytes)+1))
	if err != nil {
		return fmt.Errorf("read snapshot: %w", err)
	}
	if len(data) > c.cfg.MaxBytes {
		return fmt.Errorf("snapshot of over %d bytes: %w", c.cfg.MaxBytes, ErrTooLarge)
	}
	snap, err := decodeSnapshot(data)
	if err != nil {
		return err
	}
	if st := c.state.Load(); st.source == FromServer && snap.Revision < st.revision {
		if c.older++; c.older < olderPolls {
			return fmt.Errorf("the snapshot is of revision %d, the state in use of %d: waiting for the server to catch up", snap.Revision, st.revision)
		}
	}
	c.older = 0
	c.replace(snap, FromServer)
	c.etag, c.etagRevision = resp.Header.Get("ETag"), snap.Revision
	c.confirmed()
	return nil
}

// post sends a small JSON body and expects no answer but success.
func (c *Client) post(ctx context.Context, path string, v any) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	r, err := c.request(ctx, http.MethodPost, body, path, nil)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return fmt.Errorf("post %s: %w", path, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return errorOf("post "+path, resp)
	}
	return nil
}

// openStream asks for the event stream from the state's revision on.
func (c *Client) openStream(ctx context.Context) (*http.Response, error) {
	query := url.Values{"client": {c.cfg.Name}}
	since := strconv.FormatUint(c.since(), 10)
	query.Set("since", since)
	r, err := c.request(ctx, http.MethodGet, nil, "/v1/stream", query)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept", "text/event-stream")
	r.Header.Set("Accept-Encoding", "identity")
	r.Header.Set("Last-Event-ID", since)
	resp, err := c.http.Do(r)
	if err != nil {
		return nil, fmt.Errorf("open stream: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		return nil, errorOf("open stream", resp)
	}
	if t, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err != nil || t != "text/event-stream" {
		defer resp.Body.Close()
		return nil, errNotAStream
	}
	return resp, nil
}

var errNotAStream = errors.New("open stream: the answer is no event stream; something between here and flagd keeps streams out")

// since is the revision to resume from. A bootstrap's may be of another store, so it counts for nothing.
func (c *Client) since() uint64 {
	st := c.state.Load()
	if st.source == FromServer || st.source == FromDisk {
		return st.revision
	}
	return 0
}
