package client

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/murmuration/murmuration/internal/durable"
)

// The environment variables that override the configuration file.
const (
	EnvConfig  = "MURMUR_CONFIG"  // path of the file
	EnvContext = "MURMUR_CONTEXT" // name of the context to use
	EnvServer  = "MURMUR_SERVER"  // base URLs, separated by commas
	EnvToken   = "MURMUR_TOKEN"
	EnvCA      = "MURMUR_CA" // path of a PEM file, or the PEM itself
)

// ErrNoServer is returned when neither the file nor the environment says where the server is.
var ErrNoServer = errors.New("no server is configured: run `murmur login URL`, or set MURMUR_SERVER")

// maxConfig bounds the configuration file and the CA file, in bytes.
const maxConfig = 1 << 20

// Config is the configuration file: named contexts, one of which is current.
type Config struct {
	Current  string             `json:"current,omitempty"`
	Contexts map[string]Context `json:"contexts,omitempty"`

	path string
}

// Context says how to reach one fleet.
type Context struct {
	// Servers are base URLs such as https://murmur.example:7700; the first that answers is used.
	Servers []string `json:"servers"`
	// CA is the fleet CA's certificate as PEM; "" trusts the system's roots.
	CA string `json:"ca,omitempty"`
	// Token is the bearer: an API token or that of a log-in.
	Token string `json:"token,omitempty"`
	// User is for people: who the token stands for.
	User string `json:"user,omitempty"`
}

// Path is where the configuration file is: $MURMUR_CONFIG, or murmur/config.json in the user's configuration folder.
func Path(getenv func(string) string) (string, error) {
	if p := getenv(EnvConfig); p != "" {
		return p, nil
	}
	if dir := getenv("XDG_CONFIG_HOME"); dir != "" {
		return filepath.Join(dir, "murmur", "config.json"), nil
	}
	home := getenv("HOME")
	if home == "" {
		return "", errors.New("neither MURMUR_CONFIG nor HOME is set: cannot find the configuration file")
	}
	return filepath.Join(home, ".config", "murmur", "config.json"), nil
}

// LoadConfig reads the configuration file at path; a missing one is an empty configuration. A file that others may
// read is refused, for it holds tokens.
func LoadConfig(path string) (*Config, error) {
	c := &Config{Contexts: map[string]Context{}, path: path}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("%s holds tokens but has mode %v: run `chmod 600 %s`", path, mode, path)
	}
	if info.Size() > maxConfig {
		return nil, fmt.Errorf("%s is %d bytes long: not a configuration file of ours", path, info.Size())
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	if err := decodeConfig(data, c); err != nil {
		return nil, fmt.Errorf("read the configuration %s: %w", path, err)
	}
	return c, nil
}

func decodeConfig(data []byte, c *Config) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(c); err != nil {
		if e, ok := errors.AsType[*json.SyntaxError](err); ok {
			return fmt.Errorf("line %d: %w", 1+bytes.Count(data[:min(int(e.Offset), len(data))], []byte("\n")), err)
		}
		return err
	}
	if c.Contexts == nil {
		c.Contexts = map[string]Context{}
	}
	return nil
}

// Save writes the configuration to where it was loaded from, mode 0600, durably.
func (c *Config) Save() error {
	data, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return fmt.Errorf("save the configuration: %w", err)
	}
	dir, name := filepath.Split(filepath.Clean(c.path))
	if dir == "" {
		dir = "."
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("save the configuration: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("save the configuration: %w", err)
	}
	defer root.Close()
	if err := durable.WriteFile(root, name, append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("save the configuration: %w", err)
	}
	return nil
}

// Names are the contexts' names, sorted.
func (c *Config) Names() []string {
	var names []string
	for name := range c.Contexts {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Set stores a context and makes it the current one.
func (c *Config) Set(name string, ctx Context) {
	c.Contexts[name] = ctx
	c.Current = name
}

// Load reads the configuration file and the environment and returns the context to use. A server or CA from the
// environment never goes together with a token from the file that was meant for another server.
func Load(getenv func(string) string) (Context, error) {
	path, err := Path(getenv)
	if err != nil && getenv(EnvServer) == "" {
		return Context{}, err
	}
	c := &Config{}
	if err == nil {
		if c, err = LoadConfig(path); err != nil {
			return Context{}, err
		}
	}
	name := c.Current
	if n := getenv(EnvContext); n != "" {
		if _, ok := c.Contexts[n]; !ok {
			return Context{}, fmt.Errorf("there is no context %q in %s: it has %s", n, path, strings.Join(c.Names(), ", "))
		}
		name = n
	}
	ctx := c.Contexts[name]
	if err := ctx.override(getenv); err != nil {
		return Context{}, err
	}
	return ctx, ctx.Valid()
}

// override applies the environment.
func (c *Context) override(getenv func(string) string) error {
	if v := getenv(EnvServer); v != "" {
		servers := splitServers(v)
		if !slices.Equal(servers, c.Servers) {
			// Another server must not be sent this one's token, nor be trusted by this one's CA.
			c.Token, c.User = "", ""
			if getenv(EnvCA) != "" {
				c.CA = ""
			}
		}
		c.Servers = servers
	}
	if v := getenv(EnvToken); v != "" {
		c.Token, c.User = v, ""
	}
	if v := getenv(EnvCA); v != "" {
		pem, err := readCA(v)
		if err != nil {
			return err
		}
		c.CA = pem
	}
	return nil
}

func splitServers(v string) []string {
	var out []string
	for s := range strings.SplitSeq(v, ",") {
		if s = strings.TrimRight(strings.TrimSpace(s), "/"); s != "" {
			out = append(out, s)
		}
	}
	return out
}

// readCA returns PEM text as it is, and reads it from a file otherwise.
func readCA(v string) (string, error) {
	if strings.Contains(v, "-----BEGIN") {
		return v, nil
	}
	info, err := os.Stat(v)
	if err != nil {
		return "", fmt.Errorf("read the CA named by %s: %w", EnvCA, err)
	}
	if info.Size() > maxConfig {
		return "", fmt.Errorf("read the CA named by %s: %s is %d bytes long", EnvCA, v, info.Size())
	}
	data, err := os.ReadFile(v)
	if err != nil {
		return "", fmt.Errorf("read the CA named by %s: %w", EnvCA, err)
	}
	return string(data), nil
}

// Valid reports whether the context can be used: at least one server, each an https URL, or http on a loopback
// address, without path, query or user.
func (c Context) Valid() error {
	if len(c.Servers) == 0 {
		return ErrNoServer
	}
	for _, s := range c.Servers {
		u, err := url.Parse(s)
		if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || strings.Trim(u.Path, "/") != "" {
			return fmt.Errorf("server %q: a base URL like https://murmur.example:7700 is needed", redactURL(s))
		}
		if u.Scheme != "https" && (u.Scheme != "http" || !loopback(u.Hostname())) {
			return fmt.Errorf("server %q: it must start with https:// (plain http only for this machine), or the token could be read on the way", s)
		}
	}
	return nil
}

// redactURL removes a password from a URL for messages.
func redactURL(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return "(not a URL)"
	}
	return u.Redacted()
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
