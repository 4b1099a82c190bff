package release

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// FieldError is one thing wrong with a manifest, recipe or strategy. A validation returns all of them joined
// (errors.Join); [FieldErrors] takes them apart again.
type FieldError struct {
	// Path names the field as in murmur.yaml, for example "strategy.steps[1].dial".
	Path string
	// Msg says what is wrong and what is wanted.
	Msg string
}

// Error renders "path: message".
func (e FieldError) Error() string { return e.Path + ": " + e.Msg }

// FieldErrors returns every FieldError joined or wrapped in err, in order.
func FieldErrors(err error) []FieldError {
	switch e := err.(type) {
	case nil:
		return nil
	case FieldError:
		return []FieldError{e}
	case interface{ Unwrap() []error }:
		var all []FieldError
		for _, inner := range e.Unwrap() {
			all = append(all, FieldErrors(inner)...)
		}
		return all
	}
	return FieldErrors(errors.Unwrap(err))
}

// fields collects field errors below a path.
type fields struct {
	path string
	errs *[]error
}

func newFields() fields { return fields{errs: new([]error)} }

// at descends to a named field; names are joined by dots.
func (f fields) at(name string) fields {
	if f.path != "" && !strings.HasPrefix(name, "[") {
		name = "." + name
	}
	return fields{path: f.path + name, errs: f.errs}
}

func (f fields) index(i int) fields { return f.at(fmt.Sprintf("[%d]", i)) }

func (f fields) fail(format string, args ...any) {
	*f.errs = append(*f.errs, FieldError{Path: f.path, Msg: fmt.Sprintf(format, args...)})
}

// check reports an error of a validator under this path.
func (f fields) check(err error) {
	if err != nil {
		f.fail("%v", err)
	}
}

func (f fields) err() error { return errors.Join(slices.Clone(*f.errs)...) }
