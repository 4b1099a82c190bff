package fleet

import (
	"errors"
	"fmt"
	"maps"
	"slices"
)

// The bounds of labels. They are those of Kubernetes but for the number.
const (
	MaxLabels     = 64  // on one host
	MaxLabelKey   = 128 // bytes
	MaxLabelValue = 63  // bytes
)

// The keys that stand for the host itself in selectors and inventories; no label may have them.
const (
	keyID   = "id"
	keyName = "name"
)

// ErrLabel is wrapped by every error about a label that cannot be.
var ErrLabel = errors.New("bad label")

// ValidateLabelKey checks a label's key: 1 to 128 bytes of ASCII letters, digits, '-', '_', '.' and '/', starting
// and ending with a letter or digit. "id" and "name" are taken by the host itself.
func ValidateLabelKey(key string) error {
	if key == keyID || key == keyName {
		return fmt.Errorf("%w: the key %q stands for the host's own %s", ErrLabel, key, key)
	}
	return validateKey(key)
}

// ValidateLabelValue checks a label's value: empty, or up to 63 bytes as in a key but without '/'.
func ValidateLabelValue(value string) error {
	if len(value) > MaxLabelValue {
		return fmt.Errorf("%w: value of %d bytes, the limit is %d", ErrLabel, len(value), MaxLabelValue)
	}
	if value == "" {
		return nil
	}
	if i := badByte(value, isValueByte); i >= 0 {
		return fmt.Errorf("%w: value %q may not have %q at byte %d", ErrLabel, value, value[i], i)
	}
	return nil
}

// ValidateLabels checks all labels of one host and reports everything wrong with them.
func ValidateLabels(labels map[string]string) error {
	if len(labels) > MaxLabels {
		return fmt.Errorf("%w: %d labels, the limit is %d", ErrLabel, len(labels), MaxLabels)
	}
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		if err := ValidateLabelKey(key); err != nil {
			errs = append(errs, err)
		}
		if err := ValidateLabelValue(labels[key]); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", key, err))
		}
	}
	return errors.Join(errs...)
}

// validateKey is ValidateLabelKey for selectors, where the host's own keys are welcome.
func validateKey(key string) error {
	if key == "" || len(key) > MaxLabelKey {
		return fmt.Errorf("%w: key of %d bytes, it must have 1 to %d", ErrLabel, len(key), MaxLabelKey)
	}
	if i := badByte(key, isKeyByte); i >= 0 {
		return fmt.Errorf("%w: key %q may not have %q at byte %d", ErrLabel, key, key[i], i)
	}
	return nil
}

// badByte returns the index of the first byte of s that ok refuses, or that starts or ends s without being a
// letter or digit; -1 when there is none.
func badByte(s string, ok func(byte) bool) int {
	for i := range len(s) {
		edge := i == 0 || i == len(s)-1
		if !ok(s[i]) || edge && !isAlphanumeric(s[i]) {
			return i
		}
	}
	return -1
}

func isAlphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

func isValueByte(c byte) bool { return isAlphanumeric(c) || c == '-' || c == '_' || c == '.' }

func isKeyByte(c byte) bool { return isValueByte(c) || c == '/' }
