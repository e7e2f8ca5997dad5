package kernel

import (
	"errors"
	"os"
	"testing"

	"github.com/tqserver/tqserver/sdk"
)

// A table is written when it differs, and what is remembered of a page that is gone is not on disk any more.
func TestTableIsOnDisk(t *testing.T) {
	k := testKernel(t)
	file := k.site.path("routes.json")
	t.Cleanup(k.routes.close)
	take := func(routes ...sdk.Route) {
		t.Helper()
		if err := k.accept(sdk.Table{Routes: routes, AllowEmpty: true}); err != nil {
			t.Fatal(err)
		}
	}
	k.good.set("p1", testRelease(t, "one", "serve"))
	take(routeOf("p1"), routeOf("p2"))
	var saved sdk.Table
	if err := loadJSON(file, &saved); err != nil || len(saved.Routes) != 2 {
		t.Fatalf("on disk is %+v, %v", saved, err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	take(routeOf("p1"), routeOf("p2"))
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the same table is written: %v", err)
	}
	take(routeOf("p2"))
	if err := loadJSON(file, &saved); err != nil || len(saved.Routes) != 1 {
		t.Errorf("on disk is %+v, %v", saved, err)
	}
	if left := loadGoodReleases(k.good.path).get("p1"); left.ID != "" {
		t.Errorf("of a page that is gone there is %+v", left)
	}
}
