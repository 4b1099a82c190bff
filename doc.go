// Package murmuration holds no code: it is the root of the module, where the house rules live as tests.
//
// See docs/architecture.md for the picture, and rules_test.go for what every package must keep to: which
// way imports run, that every package explains itself, what the host's binary may not contain, and how
// long a function may be.
package murmuration
