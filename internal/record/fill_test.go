package record_test

import (
	"fmt"
	"reflect"
	"time"

	"pgregory.net/rapid"
)

// source gives the values fill writes.
type source interface {
	text() string
	number(bits int) int64
	truth() bool
	length() int
}

// counting gives values that are all different and never zero, the same every time.
type counting struct{ n int64 }

func (c *counting) next() int64           { c.n++; return c.n }
func (c *counting) text() string          { return fmt.Sprintf("text %d", c.next()) }
func (c *counting) number(bits int) int64 { return c.next() % (1 << (bits - 1)) }
func (c *counting) truth() bool           { return true }
func (c *counting) length() int           { return 2 }

// drawn gives arbitrary values.
type drawn struct{ t *rapid.T }

func (d drawn) text() string { return rapid.String().Draw(d.t, "text") }
func (d drawn) truth() bool  { return rapid.Bool().Draw(d.t, "truth") }
func (d drawn) length() int  { return rapid.IntRange(0, 2).Draw(d.t, "length") }
func (d drawn) number(bits int) int64 {
	return rapid.Int64Range(0, 1<<(min(bits, 62)-1)-1).Draw(d.t, "number")
}

// fill sets everything in v, which must be settable, from src. Times are between 2026 and 2095 or zero.
func fill(v reflect.Value, src source) {
	if v.Type() == reflect.TypeFor[time.Time]() {
		if src.truth() {
			at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC).Add(time.Duration(src.number(32)) * 1_000_000_007)
			v.Set(reflect.ValueOf(at))
		}
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(src.text())
	case reflect.Bool:
		v.SetBool(src.truth())
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(src.number(v.Type().Bits()))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(src.number(v.Type().Bits())))
	case reflect.Struct:
		for _, field := range v.Fields() {
			fill(field, src)
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), src)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), src.length(), 2))
		for i := range v.Len() {
			fill(v.Index(i), src)
		}
	case reflect.Map:
		fillMap(v, src)
	default:
		panic("fill cannot make a " + v.Type().String())
	}
}

func fillMap(v reflect.Value, src source) {
	v.Set(reflect.MakeMap(v.Type()))
	for range src.length() {
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(key, src)
		fill(value, src)
		v.SetMapIndex(key, value)
	}
}
