package identity

import (
	"context"
	"errors"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	_ "github.com/murmuration/murmuration/proto/murmur/v1" // registers the services
)

// TestEveryProcedureHasPermissions walks the services of the API: a procedure without a line in the table fails,
// and so does a line without a procedure.
func TestEveryProcedureHasPermissions(t *testing.T) {
	found := map[string]bool{}
	protoregistry.GlobalFiles.RangeFilesByPackage("murmur.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			for j := range s.Methods().Len() {
				found["/"+string(s.FullName())+"/"+string(s.Methods().Get(j).Name())] = true
			}
		}
		return true
	})
	if len(found) < 40 {
		t.Fatalf("only %d procedures were found: is the API registered?", len(found))
	}
	for procedure := range found {
		want, ok := permissions[procedure]
		if !ok || !want.public && want.role == Nobody && len(want.peers) == 0 {
			t.Errorf("%s has no permissions: add it to the table", procedure)
		}
	}
	for procedure := range permissions {
		if !found[procedure] {
			t.Errorf("%s is in the table and not in the API", procedure)
		}
	}
}

// TestOnlyTheseArePublic makes a procedure without log-in a decision that shows in a review.
func TestOnlyTheseArePublic(t *testing.T) {
	want := map[string]bool{"/murmur.v1.IdentityService/Login": true, "/murmur.v1.IdentityService/Join": true}
	for procedure, a := range permissions {
		if a.public != want[procedure] {
			t.Errorf("%s: public is %t", procedure, a.public)
		}
	}
}

func TestAccess(t *testing.T) {
	host := Caller{Name: "host-a", Peer: Peer{KindHost, "host-a"}}
	seeder := Caller{Name: "seeder:s1", Peer: Peer{KindSeeder, "s1"}}
	for _, tc := range []struct {
		name   string
		access access
		caller Caller
		want   bool
	}{
		{"nobody is let in by no access", access{}, Caller{Name: "root", Role: Admin}, false},
		{"nobody", access{role: Viewer}, Caller{}, false},
		{"same role", access{role: Ops}, Caller{Name: "a", Role: Ops}, true},
		{"higher role", access{role: Ops}, Caller{Name: "a", Role: Admin}, true},
		{"lower role", access{role: Ops}, Caller{Name: "a", Role: ReleaseManager}, false},
		{"a host is no person", access{role: Viewer}, host, false},
		{"a host where hosts may", access{peers: []Kind{KindHost}}, host, true},
		{"a seeder where hosts may", access{peers: []Kind{KindHost}}, seeder, false},
		{"a person where hosts may", access{peers: []Kind{KindHost}}, Caller{Name: "root", Role: Admin}, false},
		{"public", access{public: true}, Caller{}, true},
	} {
		if got := tc.access.allows(tc.caller); got != tc.want {
			t.Errorf("%s: %t, want %t", tc.name, got, tc.want)
		}
	}
}

func TestUnknownProcedureIsDenied(t *testing.T) {
	f := newFixture(t)
	token, _, _, err := f.Login(from("192.0.2.1"), "root", password)
	if err != nil {
		t.Fatal(err)
	}
	_, err = authInterceptor{f.Authority}.admit(context.Background(), "/murmur.v1.NewService/New", map[string][]string{"Authorization": {"Bearer " + token}})
	if !errors.Is(err, ErrForbidden) {
		t.Errorf("an admin calling a procedure without permissions: %v, want ErrForbidden", err)
	}
}

func TestRoles(t *testing.T) {
	for r := Viewer; r <= Admin; r++ {
		if got, err := ParseRole(r.String()); err != nil || got != r {
			t.Errorf("ParseRole(%q) = %v, %v", r, got, err)
		}
	}
	for _, s := range []string{"", "nobody", "root", "Admin"} {
		if r, err := ParseRole(s); err == nil {
			t.Errorf("ParseRole(%q) = %v", s, r)
		}
	}
}
