package record

import (
	"fmt"
	"time"
)

// User is the stored form of a person who may log in, under KindUser and its name. Version 1.
type User struct {
	Name  string `json:"name"`
	Role  string `json:"role"`
	Email string `json:"email,omitempty"`
	// Password is an argon2id hash in PHC form, "" for someone who cannot log in with a password.
	Password  string    `json:"password,omitempty"`
	Disabled  bool      `json:"disabled,omitempty"`
	CreatedAt time.Time `json:"created_at"`
	// Epoch grows when the password, the role or Disabled changes: sessions begun in an earlier epoch are void.
	Epoch int64 `json:"epoch,omitempty"`
}

// Current is the form's version.
func (User) Current() int { return 1 }

// AuditView is the user without the password's hash, as an audit record shows it.
func (u User) AuditView() any {
	u.Password = ""
	return u
}

// Token is the stored form of an API token, under KindToken and its id. Version 1. The token itself is never
// stored.
type Token struct {
	ID    string `json:"id"`
	Name  string `json:"name"`
	Role  string `json:"role"`
	Owner string `json:"owner"`
	// Secret is the SHA-256 of the token's secret, hex.
	Secret     string    `json:"secret"`
	CreatedAt  time.Time `json:"created_at"`
	ExpiresAt  time.Time `json:"expires_at,omitzero"`
	LastUsedAt time.Time `json:"last_used_at,omitzero"`
}

// Current is the form's version.
func (Token) Current() int { return 1 }

// AuditView is the token without the secret's hash.
func (t Token) AuditView() any {
	t.Secret = ""
	return t
}

// Session is the stored form of a log-in, under KindSession and its id. Version 1.
type Session struct {
	ID   string `json:"id"`
	User string `json:"user"`
	// Secret is the SHA-256 of the session token's secret, hex.
	Secret string `json:"secret"`
	From   string `json:"from,omitempty"`
	// Epoch is the user's epoch at log-in.
	Epoch     int64     `json:"epoch,omitempty"`
	CreatedAt time.Time `json:"created_at"`
	ExpiresAt time.Time `json:"expires_at"`
}

// Current is the form's version.
func (Session) Current() int { return 1 }

// AuditView is the session without the secret's hash.
func (s Session) AuditView() any {
	s.Secret = ""
	return s
}

// JoinToken is the stored form of a one-time token for a new host, under KindJoin and its id. Version 1.
type JoinToken struct {
	ID string `json:"id"`
	// Secret is the SHA-256 of the token's secret, hex.
	Secret    string            `json:"secret"`
	HostName  string            `json:"host_name,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
	CreatedBy string            `json:"created_by"`
	CreatedAt time.Time         `json:"created_at"`
	ExpiresAt time.Time         `json:"expires_at"`
	// UsedBy is the host that joined with it, UsedKey the SHA-256 of that host's public key, hex: the same
	// key may ask again, for an answer that got lost.
	UsedBy  string    `json:"used_by,omitempty"`
	UsedKey string    `json:"used_key,omitempty"`
	UsedAt  time.Time `json:"used_at,omitzero"`
}

// Current is the form's version.
func (JoinToken) Current() int { return 1 }

// AuditView is the token without the secret's hash.
func (t JoinToken) AuditView() any {
	t.Secret = ""
	return t
}

// Builder is the stored form of a builder's signing key, under KindBuilder and its key id, and an entry of
// the signed trust bundle. Version 1.
type Builder struct {
	KeyID  string `json:"key_id"`
	Name   string `json:"name"`
	Public []byte `json:"public"` // ed25519, 32 bytes
	// Services and Refs are the patterns of what the key may sign; empty means all.
	Services  []string  `json:"services,omitempty"`
	Refs      []string  `json:"refs,omitempty"`
	NotBefore time.Time `json:"not_before,omitzero"`
	NotAfter  time.Time `json:"not_after,omitzero"`
	Revoked   bool      `json:"revoked,omitempty"`
}

// Current is the form's version.
func (Builder) Current() int { return 1 }

// Revocation is the stored form of what makes certificates void, under KindCert. Version 1. Its ID is a
// serial number in hex for one certificate, or the peer's name ("host/" and the id) for all certificates of
// a peer issued before At. See [RevokedSerial] and [RevokedPeer].
type Revocation struct {
	By     string    `json:"by"`
	Reason string    `json:"reason"`
	At     time.Time `json:"at"`
}

// Current is the form's version.
func (Revocation) Current() int { return 1 }

// RevokedSerial is where the revocation of one certificate is stored.
func RevokedSerial(hex string) Key { return Key{Kind: KindCert, ID: hex} }

// RevokedPeer is where the revocation of all of a peer's certificates is stored. Kind is "host" or "seeder".
func RevokedPeer(kind, id string) Key { return Key{Kind: KindCert, ID: kind + "/" + id} }

// Audit is the stored form of one audit record, under KindAudit and its sequence number. Version 1. Before and
// After are compact JSON without secrets, "" for none. Hash covers every other field and Prev, the hash of
// the record before it.
type Audit struct {
	Seq    int64     `json:"seq"`
	At     time.Time `json:"at"`
	Who    string    `json:"who"`
	From   string    `json:"from,omitempty"`
	What   string    `json:"what"`
	Object string    `json:"object"`
	Before string    `json:"before,omitempty"`
	After  string    `json:"after,omitempty"`
	Why    string    `json:"why,omitempty"`
	Prev   string    `json:"prev,omitempty"`
	Hash   string    `json:"hash,omitempty"`
}

// Current is the form's version.
func (Audit) Current() int { return 1 }

// AuditKey is where the audit record of a sequence number is stored: the digits sort as the numbers do.
func AuditKey(seq int64) Key { return Key{Kind: KindAudit, ID: fmt.Sprintf("%016d", seq)} }

// AuditHead is the stored form of the end of the audit chain, under [AuditHeadKey]. Version 1.
type AuditHead struct {
	Seq  int64  `json:"seq"`
	Hash string `json:"hash"`
}

// Current is the form's version.
func (AuditHead) Current() int { return 1 }

// AuditHeadKey is where the end of the audit chain is stored.
var AuditHeadKey = Key{Kind: KindFleet, ID: "audit-head"}

// Trust is the stored form of the signed list of builder keys, under [TrustKey]. Version 1.
type Trust struct {
	Version  int64  `json:"version"`
	Envelope []byte `json:"envelope"`
}

// Current is the form's version.
func (Trust) Current() int { return 1 }

// TrustKey is where the trust bundle is stored.
var TrustKey = Key{Kind: KindFleet, ID: "trust"}

// FleetCA is the stored form of the fleet CA's certificate (never its key), under [CAKey]: every seeder
// checks at its start that it has the same one. Version 1.
type FleetCA struct {
	Certificate []byte `json:"certificate"` // DER
}

// Current is the form's version.
func (FleetCA) Current() int { return 1 }

// CAKey is where the fleet CA's certificate is stored.
var CAKey = Key{Kind: KindFleet, ID: "ca"}
