package release

import (
	"time"

	"github.com/murmuration/murmuration/dial"
)

// ManifestVersion is written into every manifest this code makes; readers accept it and older ones.
const ManifestVersion = 1

// Digest is a SHA-256 in text form: "sha256:" and 64 lower-case hexadecimal digits. See [ParseDigest].
type Digest string

// Manifest says what a release is. It is small (a few KiB whatever the artifact's size): the bulky list of
// files and the chunk table are the [Index], carried inside the artifact and bound to the manifest by digest.
// A manifest is immutable once signed; its own digest is a subject of the signed provenance.
type Manifest struct {
	Version int    `json:"version"`
	Service string `json:"service"`
	// ID is the release's UUIDv7, so ids sort by creation time.
	ID        string    `json:"id"`
	Commit    string    `json:"commit"`
	Ref       string    `json:"ref"`
	Repo      string    `json:"repo"`
	Author    string    `json:"author"`
	Subject   string    `json:"subject"`
	Reviewers []string  `json:"reviewers,omitempty"`
	CreatedAt time.Time `json:"created_at"`

	Artifact Artifact `json:"artifact"`
	// Recipe is what murmur.yaml said at this commit. Agents run the release by it and by nothing else.
	Recipe Recipe `json:"recipe"`
	// Changes are the commits since the previous release of the service, newest first.
	Changes []Change `json:"changes,omitempty"`
}

// Artifact describes the .tar.zst file: a sequence of independent zstd frames, one per content-defined chunk
// of the tar stream, then one skippable frame holding the [Index]. "zstd -dc | tar x" reads it.
type Artifact struct {
	// Digest and Size are of the whole file.
	Digest Digest `json:"digest"`
	Size   int64  `json:"size"`
	// RawSize is the size of the tar stream, RawDigest its SHA-256.
	RawSize   int64  `json:"raw_size"`
	RawDigest Digest `json:"raw_digest"`
	Files     int    `json:"files"`
	Chunks    int    `json:"chunks"`
	// IndexOffset and IndexSize place the skippable frame in the file; IndexDigest is the SHA-256 of the
	// frame's payload, which is zstd-compressed JSON.
	IndexOffset int64  `json:"index_offset"`
	IndexSize   int64  `json:"index_size"`
	IndexDigest Digest `json:"index_digest"`
}

// Index lists what an artifact holds.
type Index struct {
	Files  []File  `json:"files"`
	Chunks []Chunk `json:"chunks"`
}

// FileType says what an entry is. Devices, sockets and pipes are never part of a release.
type FileType string

// The types of entry a release can hold.
const (
	Regular   FileType = "file"
	Directory FileType = "dir"
	Symlink   FileType = "link"
)

// File is one entry of the tree, in the order of the tar stream (sorted by path, bytewise).
type File struct {
	Path string   `json:"path"`
	Type FileType `json:"type"`
	// Mode holds the permission bits only (0o777), with no set-id or sticky bits.
	Mode   uint32 `json:"mode"`
	Size   int64  `json:"size,omitempty"`
	Digest Digest `json:"digest,omitempty"`
	// Target is a symlink's target; it is relative and never leaves the tree.
	Target string `json:"target,omitempty"`
}

// Chunk is one content-defined piece of the tar stream and the zstd frame that holds it. Frames follow
// each other without gaps from offset 0, so a frame's offset is the sum of the sizes before it.
type Chunk struct {
	Raw       Digest `json:"raw"`
	RawSize   int64  `json:"raw_size"`
	FrameSize int64  `json:"frame_size"`
}

// Change is one commit in a release's change record.
type Change struct {
	Commit    string   `json:"commit"`
	Author    string   `json:"author"`
	Reviewers []string `json:"reviewers,omitempty"`
	Subject   string   `json:"subject"`
	Added     int      `json:"added"`
	Removed   int      `json:"removed"`
}

// Recipe is the decoded murmur.yaml: how a service is built, run, checked and rolled out. Decoding, defaults
// and their errors with line numbers are internal/build's; [Recipe.Validate] holds what must be true.
type Recipe struct {
	Service  string   `json:"service" yaml:"service"`
	Build    Build    `json:"build" yaml:"build"`
	Selector string   `json:"selector,omitempty" yaml:"selector"`
	Run      Run      `json:"run" yaml:"run"`
	Ports    []Port   `json:"ports,omitempty" yaml:"ports"`
	Health   []Health `json:"health,omitempty" yaml:"health"`
	Checks   Checks   `json:"checks" yaml:"checks"`
	Strategy Strategy `json:"strategy" yaml:"strategy"`
}

// Build is the command that turns a clean checkout into a folder to ship.
type Build struct {
	// Command is run by /bin/sh -c in the checkout. Empty means: ship Output as it is in the commit.
	Command string `json:"command,omitempty" yaml:"command"`
	// Output is the folder to ship, relative to the checkout. Default ".".
	Output string `json:"output" yaml:"output"`
	// Timeout ends a build that hangs. Default 15 min.
	Timeout Duration `json:"timeout" yaml:"timeout"`
	// Env is added to the clean environment (PATH, HOME and TMPDIR of the build's own).
	Env map[string]string `json:"env,omitempty" yaml:"env"`
	// Pass names variables of the builder's environment to hand through, for example GOPROXY.
	Pass []string `json:"pass,omitempty" yaml:"pass"`
	// MaxOutput bounds the folder shipped and the disk the build may fill, in bytes. Default 4 GiB.
	MaxOutput int64 `json:"max_output" yaml:"max_output"`
}

// Runner says how a release is run on a host.
type Runner string

// The runners an agent has.
const (
	RunProcess  Runner = "process"
	RunSystemd  Runner = "systemd"
	RunCommands Runner = "commands"
	RunFiles    Runner = "files"
)

// Run is how an activated release runs.
type Run struct {
	Kind Runner `json:"kind" yaml:"kind"`
	// Command and Args start a process, relative to the release's folder (process).
	Command string            `json:"command,omitempty" yaml:"command"`
	Args    []string          `json:"args,omitempty" yaml:"args"`
	Env     map[string]string `json:"env,omitempty" yaml:"env"`
	// Unit is restarted over D-Bus (systemd).
	Unit string `json:"unit,omitempty" yaml:"unit"`
	// Start, Stop and Restart are shell commands (commands).
	Start   string `json:"start,omitempty" yaml:"start"`
	Stop    string `json:"stop,omitempty" yaml:"stop"`
	Restart string `json:"restart,omitempty" yaml:"restart"`
	// StopTimeout is how long a process has between SIGTERM and SIGKILL. Default 30 s.
	StopTimeout Duration `json:"stop_timeout" yaml:"stop_timeout"`
}

// Port is a listening socket the agent opens and passes to the process as LISTEN_FDS.
type Port struct {
	Name string `json:"name" yaml:"name"`
	// Listen is host:port. The host's own settings may override it by Name.
	Listen string `json:"listen" yaml:"listen"`
}

// Health is one check of a running release. Exactly one of HTTP, TCP and Exec is set.
type Health struct {
	Name string `json:"name,omitempty" yaml:"name"`
	// HTTP is a path or URL; a path is asked on Port (the first port by default). Any 2xx is a success.
	HTTP string `json:"http,omitempty" yaml:"http"`
	// TCP is a port's name or an address to connect to.
	TCP string `json:"tcp,omitempty" yaml:"tcp"`
	// Exec is a shell command; exit 0 is a success.
	Exec string `json:"exec,omitempty" yaml:"exec"`
	Port string `json:"port,omitempty" yaml:"port"`
	// Interval between tries, Timeout of one try, Successes in a row that make healthy, Deadline for it.
	// Defaults 500 ms, 2 s, 3, 60 s. Failures in a row that make a running release unhealthy: default 3.
	Interval  Duration `json:"interval" yaml:"interval"`
	Timeout   Duration `json:"timeout" yaml:"timeout"`
	Successes int      `json:"successes" yaml:"successes"`
	Failures  int      `json:"failures" yaml:"failures"`
	Deadline  Duration `json:"deadline" yaml:"deadline"`
}

// Checks are scripts run around an activation. All come from the new release and run in its folder.
type Checks struct {
	// Pre runs before anything changes, Drain before the switch, Post after the release is healthy.
	Pre   []Script `json:"pre,omitempty" yaml:"pre"`
	Drain []Script `json:"drain,omitempty" yaml:"drain"`
	Post  []Script `json:"post,omitempty" yaml:"post"`
}

// Script is one check script.
type Script struct {
	Name    string   `json:"name,omitempty" yaml:"name"`
	Run     string   `json:"run" yaml:"run"`
	Timeout Duration `json:"timeout" yaml:"timeout"` // default 60 s
}

// Strategy says how a rollout of the service widens. Zero values take the defaults of [Strategy.WithDefaults].
type Strategy struct {
	Steps []Step `json:"steps,omitempty" yaml:"steps"`
	// MaxUnavailable is how many hosts may be down or changing at once in the fleet, PerRack in one rack: "3"
	// or "25%". At least one is always allowed.
	MaxUnavailable        string `json:"max_unavailable" yaml:"max_unavailable"`
	MaxUnavailablePerRack string `json:"max_unavailable_per_rack" yaml:"max_unavailable_per_rack"`
	// AcrossRacks lets one wave touch several racks at once; by default racks go one after the other.
	AcrossRacks bool `json:"across_racks,omitempty" yaml:"across_racks"`
	// AcrossDCs lets one step widen in several data centres at once; by default they go one after the other.
	AcrossDCs bool `json:"across_dcs,omitempty" yaml:"across_dcs"`
	// DCBake is waited after each data centre but the last, FirstDCBake after the first.
	DCBake           Duration `json:"dc_bake" yaml:"dc_bake"`
	FirstDCBake      Duration `json:"first_dc_bake" yaml:"first_dc_bake"`
	MinHealthy       Duration `json:"min_healthy" yaml:"min_healthy"`             // default 10 s
	HealthyDeadline  Duration `json:"healthy_deadline" yaml:"healthy_deadline"`   // default 5 min
	ProgressDeadline Duration `json:"progress_deadline" yaml:"progress_deadline"` // default 10 min
	StageDeadline    Duration `json:"stage_deadline" yaml:"stage_deadline"`       // default 10 min
	// MaxFailures is how many hosts may fail the release before it is rolled back. Default 0: none.
	MaxFailures int `json:"max_failures,omitempty" yaml:"max_failures"`
	// Manual makes every step wait for a person's promote. NoAutoRollback leaves a failed rollout where it is.
	Manual         bool `json:"manual,omitempty" yaml:"manual"`
	NoAutoRollback bool `json:"no_auto_rollback,omitempty" yaml:"no_auto_rollback"`
}

// Step is one widening. Exactly one of Hosts and Dial is set.
type Step struct {
	Hosts int       `json:"hosts,omitempty" yaml:"hosts"`
	Dial  dial.Dial `json:"dial,omitempty" yaml:"dial"`
	// Bake is how long the step is watched before the next. Manual makes this step wait for a promote.
	Bake   Duration `json:"bake" yaml:"bake"`
	Manual bool     `json:"manual,omitempty" yaml:"manual"`
}
