package release

import (
	"errors"
	"fmt"
	"time"
)

// The names of the formats used, as published by in-toto and SLSA.
const (
	// PayloadType is the DSSE payload type of an in-toto statement.
	PayloadType = "application/vnd.in-toto+json"
	// StatementType is in-toto's Statement v1.
	StatementType = "https://in-toto.io/Statement/v1"
	// PredicateType is SLSA's provenance v1.
	PredicateType = "https://slsa.dev/provenance/v1"
	// BuildType names how Murmuration builds: a clean checkout of the commit, the recipe's command, its output
	// packed. The external parameters are those of [ExternalParameters].
	BuildType = "https://github.com/murmuration/murmuration/build/v1"
	// MaxStatement is the largest encoded statement, in bytes.
	MaxStatement = 1 << 20
)

// The errors of a provenance statement.
var (
	// ErrStatement is wrapped by every complaint about a statement's form.
	ErrStatement = errors.New("malformed provenance statement")
	// ErrMismatch says that the statement is about another manifest or artifact.
	ErrMismatch = errors.New("provenance does not match the release")
)

// Statement is an in-toto Statement v1 with a SLSA v1 provenance predicate: what a builder signs.
type Statement struct {
	Type          string     `json:"_type"`
	Subject       []Resource `json:"subject"`
	PredicateType string     `json:"predicateType"`
	Predicate     Provenance `json:"predicate"`
}

// Resource is an in-toto resource descriptor; Digest maps an algorithm ("sha256", "gitCommit") to hex.
type Resource struct {
	Name   string            `json:"name,omitempty"`
	URI    string            `json:"uri,omitempty"`
	Digest map[string]string `json:"digest"`
}

// Provenance is the SLSA v1 predicate.
type Provenance struct {
	BuildDefinition BuildDefinition `json:"buildDefinition"`
	RunDetails      RunDetails      `json:"runDetails"`
}

// BuildDefinition says what was built from what.
type BuildDefinition struct {
	BuildType            string             `json:"buildType"`
	ExternalParameters   ExternalParameters `json:"externalParameters"`
	ResolvedDependencies []Resource         `json:"resolvedDependencies,omitempty"`
}

// ExternalParameters are the inputs of a build that someone outside the builder chose.
type ExternalParameters struct {
	Service string `json:"service"`
	Repo    string `json:"repo"`
	Ref     string `json:"ref"`
	Build   Build  `json:"build"`
}

// RunDetails says who built, and when.
type RunDetails struct {
	Builder  Builder  `json:"builder"`
	Metadata Metadata `json:"metadata"`
}

// Builder names the builder; ID is a URI.
type Builder struct {
	ID string `json:"id"`
}

// Metadata is about this one run.
type Metadata struct {
	InvocationID string    `json:"invocationId"`
	StartedOn    time.Time `json:"startedOn"`
	FinishedOn   time.Time `json:"finishedOn"`
}

// NewStatement makes the statement for a manifest and its exact encoded bytes. BuilderID is a URI naming the
// builder, invocationID the build's id.
func NewStatement(m Manifest, manifestBytes []byte, builderID, invocationID string, started, finished time.Time) Statement {
	return Statement{
		Type:          StatementType,
		Subject:       subjects(m, manifestBytes),
		PredicateType: PredicateType,
		Predicate: Provenance{
			BuildDefinition: BuildDefinition{
				BuildType:          BuildType,
				ExternalParameters: ExternalParameters{Service: m.Service, Repo: m.Repo, Ref: m.Ref, Build: m.Recipe.Build},
				ResolvedDependencies: []Resource{
					{URI: "git+" + m.Repo, Digest: map[string]string{"gitCommit": m.Commit}},
				},
			},
			RunDetails: RunDetails{
				Builder:  Builder{ID: builderID},
				Metadata: Metadata{InvocationID: invocationID, StartedOn: started.UTC(), FinishedOn: finished.UTC()},
			},
		},
	}
}

// subjects are the manifest and the artifact.
func subjects(m Manifest, manifestBytes []byte) []Resource {
	base := m.Service + "-" + m.ID
	return []Resource{
		{Name: base + ".manifest.json", Digest: map[string]string{"sha256": DigestOf(manifestBytes).Hex()}},
		{Name: base + ".tar.zst", Digest: map[string]string{"sha256": m.Artifact.Digest.Hex()}},
	}
}

// ParseStatement reads the payload of an envelope whose signature was verified. Unknown fields are refused:
// only this program's builders are trusted to sign.
func ParseStatement(b []byte) (Statement, error) {
	if len(b) > MaxStatement {
		return Statement{}, fmt.Errorf("%w: %d bytes, the limit is %d", ErrStatement, len(b), MaxStatement)
	}
	var s Statement
	if err := strictJSON(b, &s); err != nil {
		return Statement{}, fmt.Errorf("%w: %w", ErrStatement, err)
	}
	for _, want := range []struct{ field, got, want string }{
		{"_type", s.Type, StatementType},
		{"predicateType", s.PredicateType, PredicateType},
		{"buildType", s.Predicate.BuildDefinition.BuildType, BuildType},
	} {
		if want.got != want.want {
			return Statement{}, fmt.Errorf("%w: %s is %.200q, want %q", ErrStatement, want.field, want.got, want.want)
		}
	}
	return s, nil
}

// Check reports whether s is about exactly this manifest, in these bytes, and its artifact, built from the
// commit, repository and ref that the manifest names. The error wraps [ErrMismatch].
func (s Statement) Check(m Manifest, manifestBytes []byte) error {
	want := subjects(m, manifestBytes)
	if len(s.Subject) != len(want) {
		return fmt.Errorf("%w: %d subjects, want %d", ErrMismatch, len(s.Subject), len(want))
	}
	for i, w := range want {
		got := s.Subject[i]
		if got.Name != w.Name || w.Digest["sha256"] == "" || got.Digest["sha256"] != w.Digest["sha256"] {
			return fmt.Errorf("%w: subject %q sha256 %q, want %q sha256 %q",
				ErrMismatch, got.Name, got.Digest["sha256"], w.Name, w.Digest["sha256"])
		}
	}
	def := s.Predicate.BuildDefinition
	for _, p := range []struct{ what, got, want string }{
		{"service", def.ExternalParameters.Service, m.Service},
		{"repo", def.ExternalParameters.Repo, m.Repo},
		{"ref", def.ExternalParameters.Ref, m.Ref},
		{"commit", s.Commit(), m.Commit},
	} {
		if p.got != p.want {
			return fmt.Errorf("%w: built from %s %q, the manifest says %q", ErrMismatch, p.what, p.got, p.want)
		}
	}
	return nil
}

// Commit returns the git commit the statement says was built, or "".
func (s Statement) Commit() string {
	for _, d := range s.Predicate.BuildDefinition.ResolvedDependencies {
		if c := d.Digest["gitCommit"]; c != "" {
			return c
		}
	}
	return ""
}
