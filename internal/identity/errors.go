package identity

import "github.com/murmuration/murmuration/internal/wire"

// The errors a caller of the API can meet; their texts are meant for people and hold no secret.
var (
	ErrBadRequest     = wire.Invalid("the certificate request cannot be used")
	ErrNotLoggedIn    = wire.Unauthenticated("not logged in: run `murmur login`, or set MURMUR_TOKEN")
	ErrBadToken       = wire.Unauthenticated("the token is unknown, revoked or expired: log in again")
	ErrBadCredentials = wire.Unauthenticated("user name or password is wrong")
	ErrTooManyTries   = wire.Limited("too many tries: wait a minute and try again")
	ErrForbidden      = wire.Denied("not allowed")
	ErrRevoked        = wire.Denied("the certificate was revoked")
	ErrTokenUnknown   = wire.Denied("the join token is unknown: ask for a new one (`murmur join-token create`)")
	ErrTokenUsed      = wire.Denied("the join token was used already: each is good for one host; ask for a new one (`murmur join-token create`)")
	ErrTokenExpired   = wire.Denied("the join token has expired: ask for a new one (`murmur join-token create`)")
)
