package stagetest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/tqserver/tqserver/sdk"
)

func checkUnknownKey(ctx context.Context, t *trial) error {
	s, err := t.initialized(ctx)
	if err != nil {
		return err
	}
	config, err := t.withKey(strangeKey, "x")
	if err != nil {
		return err
	}
	want := "config." + strangeKey
	if s.schema != nil {
		for _, d := range s.schema.Check(config) {
			if d.Path == want {
				return nil
			}
		}
		return errors.New("the schema allows any key")
	}
	found, err := s.validate(ctx, config)
	if err != nil {
		return err
	}
	for _, d := range found {
		if d.Path == want {
			return nil
		}
	}
	return fmt.Errorf("without a Schema, Validate answered the configuration with the key %q with %v, want a diagnostic with the path %s", strangeKey, found, want)
}

// withKey gives the configuration with one more key.
func (t *trial) withKey(key string, value any) ([]byte, error) {
	values := map[string]any{}
	if len(t.config) > 0 {
		if err := json.Unmarshal(t.config, &values); err != nil {
			return nil, err
		}
	}
	values[key] = value
	return json.Marshal(values)
}

func checkValidatePure(ctx context.Context, t *trial) error {
	s, err := t.initialized(ctx)
	if err != nil {
		return err
	}
	strange, err := t.withKey(strangeKey, "x")
	if err != nil {
		return err
	}
	before, err := s.traces()
	if err != nil {
		return err
	}
	for _, config := range [][]byte{t.config, strange, t.config} {
		if _, err := s.validate(ctx, config); err != nil {
			return err
		}
	}
	if err := s.untouched(before, "Validate"); err != nil {
		return err
	}
	if err := s.configure(ctx); err != nil {
		return err
	}
	return s.use(ctx)
}

func checkStandby(ctx context.Context, t *trial) error {
	s, err := t.initialized(ctx)
	if err != nil {
		return err
	}
	before, err := s.traces()
	if err != nil {
		return err
	}
	if err := s.configure(ctx); err != nil {
		return err
	}
	if err := s.check(ctx, callLimit, 1); err != nil {
		return err
	}
	if err := s.untouched(before, "Configure"); err != nil {
		return err
	}
	return s.use(ctx)
}

// traces is what a plugin could leave: files in the scratch directory, sockets on which it listens.
type traces struct{ files, sockets map[string]string }

func (s *subject) traces() (traces, error) {
	files, err := listing(s.t.dir)
	return traces{files, listeners(s.proc.pid())}, err
}

// untouched is an error when there are other traces than before.
func (s *subject) untouched(before traces, call string) error {
	now, err := s.traces()
	if err != nil {
		return err
	}
	if path := changed(before.files, now.files); path != "" {
		return fmt.Errorf("%s changed the file %s", call, strings.TrimPrefix(path, s.t.dir+"/"))
	}
	for inode, addr := range now.sockets {
		if _, ok := before.sockets[inode]; !ok {
			return fmt.Errorf("%s opened a socket: %s", call, addr)
		}
	}
	return nil
}

func checkConfigureTwice(ctx context.Context, t *trial) error {
	s, err := t.ready(ctx)
	if err != nil {
		return err
	}
	if err := s.configure(ctx); err != nil {
		return fmt.Errorf("the second time: %w", err)
	}
	return s.use(ctx)
}

func checkConfigureOpen(ctx context.Context, t *trial) error {
	s, err := t.ready(ctx)
	if err != nil {
		return err
	}
	using, err := s.open(ctx)
	if err != nil {
		return err
	}
	defer using.close()
	if err := using.exchange(ctx); err != nil {
		return err
	}
	for range 2 {
		if err := s.configure(ctx); err != nil {
			return fmt.Errorf("while the service is in use: %w", err)
		}
		if err := using.exchange(ctx); err != nil {
			return fmt.Errorf("after Configure: %w", err)
		}
	}
	return nil
}

func checkConfigureBad(ctx context.Context, t *trial) error {
	s, err := t.ready(ctx)
	if err != nil {
		return err
	}
	for _, bad := range []string{`[1, 2]`, `{"cut off": `} {
		err := t.limit(ctx, callLimit, "Configure", func(ctx context.Context) error { return s.life.Configure(ctx, []byte(bad)) })
		if err == nil {
			return fmt.Errorf("Configure took %q, which is no JSON object", bad)
		}
		if code := status.Code(err); code == codes.Unavailable {
			return fmt.Errorf("Configure with %q, which is no JSON object: %w", bad, s.died(ctx, err))
		}
	}
	if err := s.check(ctx, callLimit, 1); err != nil {
		return fmt.Errorf("after a bad configuration: %w", err)
	}
	return s.use(ctx)
}

func checkBigConfig(ctx context.Context, t *trial) error {
	s, err := t.ready(ctx)
	if err != nil {
		return err
	}
	config, err := t.withKey(strangeKey, strings.Repeat("x", bigValue))
	if err != nil {
		return err
	}
	for name, call := range map[string]func(context.Context) error{
		"Validate":  func(ctx context.Context) error { _, err := s.life.Validate(ctx, config); return err },
		"Configure": func(ctx context.Context) error { return s.life.Configure(ctx, config) },
	} {
		err := t.limit(ctx, callLimit, name+" with 8 MiB", call)
		switch code := status.Code(err); {
		case code == codes.ResourceExhausted || code == codes.Unavailable || code == codes.Internal:
			return err
		case err != nil && code == codes.Unknown && status.Convert(err).Message() == "":
			return err
		}
	}
	return s.check(ctx, callLimit, 1)
}

func checkMTLS(ctx context.Context, t *trial) error {
	s, err := t.start(ctx)
	if err != nil {
		return err
	}
	stranger, err := strangersCertificate()
	if err != nil {
		return err
	}
	for who, c := range map[string]credentials.TransportCredentials{
		"a client without TLS":                   insecure.NewCredentials(),
		"a client without a certificate":         credentials.NewTLS(&tls.Config{InsecureSkipVerify: true}),
		"a client with a certificate of its own": credentials.NewTLS(&tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{stranger}}),
	} {
		if err := s.refuses(ctx, c); err != nil {
			return fmt.Errorf("%s %w", who, err)
		}
	}
	return nil
}

// refuses is an error when the plugin answers a client with these credentials.
func (s *subject) refuses(ctx context.Context, c credentials.TransportCredentials) error {
	parts := strings.Split(s.proc.stdout.get()[0], "|") // it was good enough to connect
	target := "passthrough:///" + parts[3]
	if parts[2] == "unix" {
		target = "unix:" + parts[3]
	}
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(c))
	if err != nil {
		return fmt.Errorf("cannot connect: %w", err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	err = sdk.NewLifecycle(conn).Check(ctx, 1)
	if code := status.Code(err); err == nil || code != codes.Unavailable && code != codes.DeadlineExceeded {
		return fmt.Errorf("gets an answer: %v", err)
	}
	return nil
}

func strangersCertificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	about := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, about, about, &key.PublicKey, key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
