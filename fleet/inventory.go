package fleet

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// The bounds of an inventory.
const (
	MaxInventory      = 32 << 20 // bytes
	MaxInventoryHosts = 100_000
	maxHostName       = 253 // bytes, as in DNS
)

// ErrInventory is wrapped by every error of [ParseInventory].
var ErrInventory = errors.New("bad inventory")

// ParseInventory reads a list of hosts to declare, in one of two formats:
//
//   - "csv": a header naming the columns, then a host a row. The column "name" is needed, "id" may be there, every
//     other column is a label; an empty cell means that the host has no such label.
//   - "json": an array of objects {"id", "name", "labels"}; id and labels may be missing.
//
// It is strict: unknown fields, a name or id used twice, or a label that cannot be are errors that name the row,
// where the first host is row 1 in JSON and line numbers are those of the file in CSV. All wrong rows are
// reported, up to 20. Hosts are returned in the order of the file.
func ParseInventory(data []byte, format string) ([]Host, error) {
	if len(data) > MaxInventory {
		return nil, fmt.Errorf("%w: %d bytes, the limit is %d", ErrInventory, len(data), MaxInventory)
	}
	c := collector{ids: make(map[string]string), names: make(map[string]string)}
	var err error
	switch format {
	case "csv":
		err = readCSV(data, &c)
	case "json":
		err = readJSON(data, &c)
	default:
		return nil, fmt.Errorf("%w: format %q is neither csv nor json", ErrInventory, format)
	}
	if err = errors.Join(append(c.errs, err)...); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInventory, err)
	}
	return c.hosts, nil
}

func readCSV(data []byte, c *collector) error {
	r := csv.NewReader(bytes.NewReader(bytes.TrimPrefix(data, []byte("\ufeff"))))
	r.TrimLeadingSpace = true
	header, err := r.Read()
	if errors.Is(err, io.EOF) {
		return errors.New("empty: the first line must name the columns, such as name,dc,rack")
	}
	if err != nil {
		return err
	}
	if err := checkHeader(header); err != nil {
		return fmt.Errorf("line 1: %w", err)
	}
	for !c.full() {
		row, err := r.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err // it names the line
		}
		line, _ := r.FieldPos(0)
		c.add(fmt.Sprintf("line %d", line), hostOf(header, row))
	}
	return nil
}

func checkHeader(header []string) error {
	seen := make(map[string]bool)
	for i, column := range header {
		column = strings.TrimSpace(column)
		header[i] = column
		if seen[column] {
			return fmt.Errorf("column %q is there twice", column)
		}
		seen[column] = true
		if column == keyID || column == keyName {
			continue
		}
		if err := ValidateLabelKey(column); err != nil {
			return fmt.Errorf("column %d: %w", i+1, err)
		}
	}
	if !seen[keyName] {
		return errors.New(`there is no column "name"`)
	}
	return nil
}

func hostOf(header, row []string) Host {
	var h Host
	for i, cell := range row {
		cell = strings.TrimSpace(cell)
		switch column := header[i]; {
		case column == keyID:
			h.ID = cell
		case column == keyName:
			h.Name = cell
		case cell != "":
			if h.Labels == nil {
				h.Labels = make(map[string]string)
			}
			h.Labels[column] = cell
		}
	}
	return h
}

func readJSON(data []byte, c *collector) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if t, err := d.Token(); err != nil || t != json.Delim('[') {
		return errors.New("it must be an array of hosts")
	}
	for row := 1; d.More() && !c.full(); row++ {
		var h struct {
			ID     string            `json:"id"`
			Name   string            `json:"name"`
			Labels map[string]string `json:"labels"`
		}
		if err := d.Decode(&h); err != nil {
			return fmt.Errorf("row %d: %w", row, err)
		}
		c.add(fmt.Sprintf("row %d", row), Host{ID: h.ID, Name: h.Name, Labels: h.Labels})
	}
	if c.full() {
		return nil
	}
	if _, err := d.Token(); err != nil {
		return fmt.Errorf("the array does not end: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is something behind the array")
	}
	return nil
}

// collector gathers hosts, or what is wrong with them.
type collector struct {
	hosts []Host
	errs  []error
	// ids and names say in which row each was first.
	ids, names map[string]string
}

// full reports whether reading on makes no sense: too many hosts, or enough errors to work on.
func (c *collector) full() bool { return len(c.errs) >= 20 || len(c.hosts) > MaxInventoryHosts }

func (c *collector) add(row string, h Host) {
	if err := c.check(row, h); err != nil {
		c.errs = append(c.errs, fmt.Errorf("%s: %w", row, err))
		return
	}
	c.hosts = append(c.hosts, h)
	if len(c.hosts) > MaxInventoryHosts {
		c.errs = append(c.errs, fmt.Errorf("%s: more than %d hosts", row, MaxInventoryHosts))
	}
}

func (c *collector) check(row string, h Host) error {
	if err := ValidateName(h.Name); err != nil {
		return err
	}
	if before, ok := c.names[h.Name]; ok {
		return fmt.Errorf("name %q is already in %s", h.Name, before)
	}
	c.names[h.Name] = row
	if h.ID != "" {
		if err := ValidateName(h.ID); err != nil {
			return fmt.Errorf("id: %w", err)
		}
		if before, ok := c.ids[h.ID]; ok {
			return fmt.Errorf("id %q is already in %s", h.ID, before)
		}
		c.ids[h.ID] = row
	}
	return ValidateLabels(h.Labels)
}

// ValidateName checks a host's name or id: 1 to 253 bytes of ASCII letters, digits, '-', '_' and '.', starting and
// ending with a letter or digit.
func ValidateName(name string) error {
	if name == "" || len(name) > maxHostName {
		return fmt.Errorf("name of %d bytes, it must have 1 to %d", len(name), maxHostName)
	}
	if i := badByte(name, isValueByte); i >= 0 {
		return fmt.Errorf("name %q may not have %q at byte %d", name, name[i], i)
	}
	return nil
}
