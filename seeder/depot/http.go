package depot

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strconv"
	"time"

	"github.com/murmuration/murmuration/release"
)

const (
	// offsetHeader says where the bytes of a PUT belong, and in an answer where the upload stands.
	offsetHeader = "Upload-Offset"
	// idleTimeout ends a PUT whose sender sends nothing for so long.
	idleTimeout = 60 * time.Second
)

// ArtifactHandler serves the artifacts' bytes. The caller has authenticated and authorised the request.
//
//	PUT  /v1/artifacts/{digest}   with Upload-Offset; BeginUpload must have come first
//	GET  /v1/artifacts/{digest}   with ranges (RFC 9110, section 14); HEAD too
//
// A PUT answers 201 when the artifact is whole and checked, 202 when more is to come, 409 when Upload-Offset is not
// where the upload stands or another request is writing it, 413 for more bytes than declared, 422 when the
// digest is wrong, 428 without BeginUpload, 507 when the disk is too full. 201, 202 and 409 carry Upload-Offset.
func (d *Depot) ArtifactHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /v1/artifacts/{digest}", d.put)
	mux.HandleFunc("GET /v1/artifacts/{digest}", d.get)
	return mux
}

func (d *Depot) get(w http.ResponseWriter, r *http.Request) {
	digest, err := release.ParseDigest(r.PathValue("digest"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	f, err := d.Open(digest)
	if errors.Is(err, fs.ErrNotExist) {
		http.Error(w, "no such artifact", http.StatusNotFound)
		return
	}
	if err != nil {
		d.cfg.Log.Error("open artifact", "digest", digest, "err", err)
		http.Error(w, "the artifact cannot be read", http.StatusInternalServerError)
		return
	}
	defer f.Close()
	h := w.Header()
	h.Set("Content-Type", "application/zstd")
	h.Set("ETag", `"`+string(digest)+`"`)
	h.Set("Cache-Control", "private, max-age=31536000, immutable")
	http.ServeContent(w, r, "", time.Time{}, f)
}

func (d *Depot) put(w http.ResponseWriter, r *http.Request) {
	digest, err := release.ParseDigest(r.PathValue("digest"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	offset, err := strconv.ParseInt(r.Header.Get(offsetHeader), 10, 64)
	if err != nil || offset < 0 {
		http.Error(w, offsetHeader+" must say where the bytes belong", http.StatusBadRequest)
		return
	}
	u, ok := d.find(digest)
	if !ok {
		if info, err := d.root.Lstat(artifactName(digest)); err == nil {
			w.Header().Set(offsetHeader, strconv.FormatInt(info.Size(), 10))
			w.WriteHeader(http.StatusCreated)
			return
		}
		http.Error(w, "call BeginUpload first; an upload is forgotten when the seeder restarts, what came is not", http.StatusPreconditionRequired)
		return
	}
	at, complete, err := d.receive(u, offset, &patientReader{body: r.Body, control: http.NewResponseController(w)})
	d.answerPut(w, u, at, complete, err)
}

// answerPut maps how receive ended to a status.
func (d *Depot) answerPut(w http.ResponseWriter, u *upload, at int64, complete bool, err error) {
	status := http.StatusAccepted
	switch {
	case err == nil && complete:
		status = http.StatusCreated
	case err == nil:
	case errors.Is(err, errBusy), errors.Is(err, errOffset):
		status = http.StatusConflict
		if stands, err := d.received(u); err == nil {
			at = stands
		}
	case errors.Is(err, errTooMuch):
		status = http.StatusRequestEntityTooLarge
	case errors.Is(err, errDigest):
		status = http.StatusUnprocessableEntity
	case errors.Is(err, ErrNoSpace):
		status = http.StatusInsufficientStorage
	default:
		d.cfg.Log.Warn("upload broke off", "digest", u.digest, "offset", at, "err", err)
		status = http.StatusInternalServerError
	}
	w.Header().Set(offsetHeader, strconv.FormatInt(at, 10))
	if err == nil {
		w.WriteHeader(status)
		return
	}
	text := err.Error()
	if status == http.StatusInternalServerError {
		text = "the upload broke off: call BeginUpload and go on"
	}
	http.Error(w, fmt.Sprintf("upload of %s at %d of %d bytes: %s", u.digest, at, u.size, text), status)
}

// patientReader gives every read of a body its own deadline, so that a slow sender may take all day and a silent
// one may not. A server that cannot set deadlines just reads.
type patientReader struct {
	body    io.Reader
	control *http.ResponseController
}

func (p *patientReader) Read(b []byte) (int, error) {
	if err := p.control.SetReadDeadline(time.Now().Add(idleTimeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return 0, err
	}
	return p.body.Read(b)
}
