package sdk

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	lifecyclepb "github.com/tqserver/tqserver/sdk/proto/tqserver/lifecycle/v1"
)

// Schema lists the keys that a plugin's `config:` block may have.
type Schema []Field

// Field is one key of a plugin's configuration.
type Field struct {
	Name      string   `json:"name"` // carries the unit where there is one: debounce_ms
	Type      string   `json:"type"` // string, bool, int, number or strings
	Required  bool     `json:"required,omitempty"`
	Default   string   `json:"default_json,omitempty"` // as JSON; "": the zero value
	Doc       string   `json:"doc,omitempty"`
	OneOf     []string `json:"one_of,omitempty"` // the only values allowed, of a string
	Min       *float64 `json:"min,omitempty"`
	Max       *float64 `json:"max,omitempty"`
	Sensitive bool     `json:"sensitive,omitempty"` // masked wherever it is shown
}

// Names lists the keys, in the order of the schema.
func (s Schema) Names() []string { return each(s, func(f Field) string { return f.Name }) }

// schemaOf reads the struct tags of a configuration type. A wrong tag is a fault of the plugin's author: it panics,
// at the start of the plugin, before anything is served.
//
//	Interval int    `tq:"interval_ms,default=30000,min=1" doc:"time between two probes"`
//	Path     string `tq:"path,default=/health"`
//	Token    string `tq:"token,required,sensitive"`
//	Mode     string `tq:"mode,default=fast,oneof=fast|safe"`
//
// A field that is a struct without a tag stands for the fields in it.
func schemaOf(t reflect.Type) Schema {
	var s Schema
	for i := range t.NumField() {
		f := t.Field(i)
		var found Schema
		if tag, ok := f.Tag.Lookup("tq"); ok {
			found = Schema{fieldOf(t, f, tag)}
		} else if nested(f) {
			found = schemaOf(f.Type)
		}
		for _, field := range found {
			if slices.Contains(s.Names(), field.Name) {
				panic(fmt.Sprintf("sdk: configuration %s: two fields are called %q", t, field.Name))
			}
			s = append(s, field)
		}
	}
	return s
}

func nested(f reflect.StructField) bool {
	return f.Type.Kind() == reflect.Struct && (f.IsExported() || f.Anonymous)
}

func configSchema[C any]() Schema {
	t := reflect.TypeFor[C]()
	if t.Kind() != reflect.Struct {
		panic(fmt.Sprintf("sdk: a configuration is a struct, not %s", t))
	}
	return schemaOf(t)
}

func fieldOf(t reflect.Type, f reflect.StructField, tag string) Field {
	name, rest, _ := strings.Cut(tag, ",")
	field := Field{Name: name, Type: fieldType(f.Type), Doc: f.Tag.Get("doc")}
	if name == "" || field.Type == "" || !f.IsExported() {
		panic(fmt.Sprintf("sdk: field %s.%s: the tag `tq:%q` needs a name, an exported field and a type of string, bool, int, float64 or []string", t, f.Name, tag))
	}
	for opt := range strings.SplitSeq(rest, ",") {
		key, value, _ := strings.Cut(opt, "=")
		switch key {
		case "":
		case "required":
			field.Required = true
		case "sensitive":
			field.Sensitive = true
		case "default":
			field.Default = defaultJSON(field.Type, value)
		case "oneof":
			field.OneOf = strings.Split(value, "|")
		case "min", "max":
			n, err := strconv.ParseFloat(value, 64)
			if err != nil {
				panic(fmt.Sprintf("sdk: field %s.%s: %s is not a number", t, f.Name, opt))
			}
			if key == "min" {
				field.Min = &n
			} else {
				field.Max = &n
			}
		default:
			panic(fmt.Sprintf("sdk: field %s.%s: unknown option %q in its tag", t, f.Name, key))
		}
	}
	return field
}

func fieldType(t reflect.Type) string {
	switch {
	case t.Kind() == reflect.String:
		return "string"
	case t.Kind() == reflect.Bool:
		return "bool"
	case t.Kind() == reflect.Int:
		return "int"
	case t.Kind() == reflect.Float64:
		return "number"
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.String:
		return "strings"
	}
	return ""
}

// defaultJSON reads the default of a tag; that of a list is separated by "|".
func defaultJSON(fieldType, value string) string {
	var v any = json.RawMessage(value)
	switch fieldType {
	case "string":
		v = value
	case "strings":
		v = strings.Split(value, "|")
	}
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("sdk: default %q of a %s: %v", value, fieldType, err))
	}
	return string(b)
}

// Check tells what is wrong with a configuration, given as a JSON object. Paths are "config.KEY".
func (s Schema) Check(config []byte) []Diagnostic {
	values, err := object(config)
	if err != nil {
		return []Diagnostic{{Path: "config", Message: err.Error()}}
	}
	var found []Diagnostic
	for key := range values {
		if !slices.Contains(s.Names(), key) {
			found = append(found, Diagnostic{Path: "config." + key,
				Message: fmt.Sprintf("unknown key; known are: %s", strings.Join(s.Names(), ", "))})
		}
	}
	for _, f := range s {
		raw, ok := values[f.Name]
		if message := f.check(raw, ok); message != "" {
			found = append(found, Diagnostic{Path: "config." + f.Name, Message: message})
		}
	}
	return found
}

func (f Field) check(raw json.RawMessage, given bool) string {
	switch {
	case !given && f.Required:
		return "is required"
	case !given:
		return ""
	}
	v, err := f.decode(raw)
	if err != nil {
		return fmt.Sprintf("want %s, got %s", f.article(), raw)
	}
	if s, ok := v.(string); ok && f.OneOf != nil && !slices.Contains(f.OneOf, s) {
		return fmt.Sprintf("want one of %s, got %q", strings.Join(f.OneOf, ", "), s)
	}
	var n float64
	switch v := v.(type) {
	case int:
		n = float64(v)
	case float64:
		n = v
	default:
		return ""
	}
	if f.Min != nil && n < *f.Min {
		return fmt.Sprintf("want at least %v, got %s", *f.Min, raw)
	}
	if f.Max != nil && n > *f.Max {
		return fmt.Sprintf("want at most %v, got %s", *f.Max, raw)
	}
	return ""
}

func (f Field) article() string {
	switch f.Type {
	case "int":
		return "a whole number"
	case "bool":
		return "true or false"
	case "strings":
		return "a list of strings"
	}
	return "a " + f.Type
}

func (f Field) decode(raw json.RawMessage) (any, error) {
	switch f.Type {
	case "bool":
		return decodeAs[bool](raw)
	case "int":
		return decodeAs[int](raw)
	case "number":
		return decodeAs[float64](raw)
	case "strings":
		return decodeAs[[]string](raw)
	}
	return decodeAs[string](raw)
}

func decodeAs[T any](raw json.RawMessage) (any, error) {
	var v *T
	if err := json.Unmarshal(raw, &v); err != nil {
		return nil, err
	}
	if v == nil {
		return nil, fmt.Errorf("null")
	}
	return *v, nil
}

// fill sets the fields of a configuration struct from a JSON object that Check found no fault in, and the defaults.
func (s Schema) fill(target reflect.Value, config []byte) error {
	values, err := object(config)
	if err != nil {
		return err
	}
	t := target.Type()
	for i := range t.NumField() {
		if _, tagged := t.Field(i).Tag.Lookup("tq"); !tagged && nested(t.Field(i)) {
			if err := s.fill(target.Field(i), config); err != nil {
				return err
			}
			continue
		}
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("tq"), ",")
		at := slices.Index(s.Names(), name)
		if name == "" || at < 0 {
			continue
		}
		raw, ok := values[name]
		if !ok {
			raw = json.RawMessage(s[at].Default)
		}
		if len(raw) == 0 {
			continue
		}
		if err := json.Unmarshal(raw, target.Field(i).Addr().Interface()); err != nil {
			return fmt.Errorf("config.%s: %w", name, err)
		}
	}
	return nil
}

func object(config []byte) (map[string]json.RawMessage, error) {
	values := map[string]json.RawMessage{}
	if len(config) == 0 {
		return values, nil
	}
	if err := json.Unmarshal(config, &values); err != nil {
		return nil, fmt.Errorf("want a mapping of keys to values: %w", err)
	}
	return values, nil
}

var fieldTypes = []string{"", "string", "bool", "int", "number", "strings"} // by the number on the wire

func schemaToProto(s Schema) []*lifecyclepb.Field {
	return each(s, func(f Field) *lifecyclepb.Field {
		return &lifecyclepb.Field{Name: f.Name, Type: lifecyclepb.FieldType(slices.Index(fieldTypes, f.Type)), Required: f.Required,
			DefaultJson: f.Default, Doc: f.Doc, OneOf: f.OneOf, Min: f.Min, Max: f.Max, Sensitive: f.Sensitive}
	})
}

func schemaFromProto(fields []*lifecyclepb.Field) Schema {
	return each(fields, func(f *lifecyclepb.Field) Field {
		return Field{Name: f.GetName(), Type: fieldTypes[min(max(int(f.GetType()), 0), len(fieldTypes)-1)], Required: f.GetRequired(),
			Default: f.GetDefaultJson(), Doc: f.GetDoc(), OneOf: f.GetOneOf(), Min: f.Min, Max: f.Max, Sensitive: f.GetSensitive()}
	})
}
