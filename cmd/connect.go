package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"github.com/synadia-io/orbit.go/natscontext"

	"kvbus/bus"
	"kvbus/bus/embedded"
	"kvbus/config"
)

const (
	// connectTimeout is how long one attempt to connect may take.
	connectTimeout = 5 * time.Second
	// writeTimeout is how long a server may take to accept one write, which may be
	// as large as the largest value: on a slow way that takes a while. Nothing else can
	// be done with the connection meanwhile, and a worker that stops waits for it.
	writeTimeout = 20 * time.Second
	// retryDelay is the pause between attempts to connect for the first time.
	retryDelay = 2 * time.Second
	// deniedPause is how long the log says no more of what the worker may not publish.
	deniedPause = time.Minute
)

// A connector makes connections to the server that a worker uses, its own or
// somebody else's. What happens to them is in the log.
type connector struct {
	settings config.NATS
	name     string
	server   *embedded.Server // nil for somebody else's
	logger   *slog.Logger
}

// connect makes a connection for a purpose, which its name tells the operator
// of the server. It waits for a server that can't be reached yet until ctx ends.
func (c *connector) connect(ctx context.Context, purpose string, extra ...nats.Option) (*nats.Conn, error) {
	opts, err := c.options(purpose)
	if err != nil {
		return nil, err
	}
	opts = append(opts, extra...)
	for {
		nc, err := c.attempt(ctx, opts)
		if !unreachable(err) {
			return nc, err
		}
		c.logger.Warn("waiting for NATS", "error", err, "retry_in", retryDelay)
		if err := pause(ctx, retryDelay); err != nil {
			return nil, err
		}
	}
}

// unreachable reports whether err is that of a server that may be there later:
// its name, the way to it or itself does not exist yet, or it says nothing. No
// wait would mend a wrong address.
func unreachable(err error) bool {
	if _, wrong := errors.AsType[*net.AddrError](err); wrong {
		return false
	}
	if _, unknown := errors.AsType[*net.DNSError](err); unknown {
		return true
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && (op.Op == "dial" || op.Timeout()) {
		return true
	}
	return errors.Is(err, nats.ErrNoServers) || errors.Is(err, nats.ErrTimeout)
}

// attempt tries to connect once. If ctx ends earlier, it is left to itself: it
// ends after connectTimeout for each server, and keeps nothing.
func (c *connector) attempt(ctx context.Context, opts []nats.Option) (*nats.Conn, error) {
	type outcome struct {
		nc  *nats.Conn
		err error
	}
	made := make(chan outcome)
	go func() {
		nc, err := c.dial(opts)
		select {
		case made <- outcome{nc, err}:
		case <-ctx.Done():
			if nc != nil {
				nc.Close()
			}
		}
	}()
	select {
	case o := <-made:
		return o.nc, o.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (c *connector) dial(opts []nats.Option) (*nats.Conn, error) {
	switch {
	case c.server != nil:
		nc, err := c.server.Connect(opts...)
		// The worker has no certificate that could say who it is.
		const mapped = "nats.user, nats.creds or nats.nkey; only by nats.nkey where its TLS has verify_and_map"
		if refusal(err) && (c.settings.User != "" || c.settings.Creds != "" || c.settings.NKey != "") {
			return nil, fmt.Errorf("%w: its own server does not take the worker by %s", err, mapped)
		}
		if refusal(err) {
			return nil, fmt.Errorf("%w: the worker too needs a user of its own server: %s", err, mapped)
		}
		return nc, err
	case c.settings.Context != "":
		nc, _, err := natscontext.Connect(c.settings.Context, opts...)
		if err != nil {
			return nil, fmt.Errorf("connect by the context %q: %w", c.settings.Context, unseen(err))
		}
		return nc, nil
	default:
		nc, err := nats.Connect(string(c.settings.URL), opts...)
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("%w: the server says nothing and ends the connection; one that wants TLS first (handshake_first) takes nats.context, with tls_first", err)
		}
		if err != nil {
			return nil, fmt.Errorf("connect to %v: %w", c.settings.URL, unseen(err))
		}
		return nc, nil
	}
}

// unseen makes an error of what can't be parsed one that does not show it, nor a part:
// it may have a password.
func unseen(err error) error {
	if _, ok := errors.AsType[*url.Error](err); ok {
		return errors.New("a URL can't be parsed: must be like nats://host:4222")
	}
	return err
}

// connectedURL is the server that a connection leads to, for people. A token stands in
// the place of a user in it, where nats.go would show it.
func connectedURL(nc *nats.Conn) string { return config.URLs(nc.ConnectedUrl()).String() }

func (c *connector) options(purpose string) ([]nats.Option, error) {
	logger := c.logger.With("connection", purpose)
	var refused atomic.Bool // and said so, since the connection was lost
	var denied atomic.Int64 // when an answer was, and that was said
	opts := []nats.Option{
		nats.Name(c.name + " " + purpose),
		nats.Timeout(connectTimeout),
		nats.FlusherTimeout(writeTimeout),
		// What waited with a write that failed is lost: what comes after it must not
		// go on the same connection.
		nats.ReconnectOnFlusherError(),
		// What can't be sent now must fail now: an answer would be too late, and
		// events are held by the store.
		nats.ReconnectBufSize(-1),
		// Else a connection that may reconnect for ever is given up at the second
		// refusal: the server may know its user again later.
		nats.IgnoreAuthErrorAbort(),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			refused.Store(false)
			if err != nil {
				logger.Warn("disconnected from NATS", "error", err)
			}
		}),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			if refusal(err) && refused.Swap(true) {
				return // each attempt to come back brings one
			}
			level := slog.LevelError
			switch action, _, _ := bus.PermissionViolation(err); {
			case errors.Is(err, nats.ErrBadHeaderMsg):
				level = slog.LevelDebug // of a request, whose sender is told by the answer
			case action == bus.ActionPublish:
				// Who asks may want any number of answers where the worker may not publish.
				if now := time.Now().UnixNano(); now-denied.Load() < int64(deniedPause) {
					level = slog.LevelDebug
				} else {
					denied.Store(now)
				}
			}
			attrs := []any{"error", err}
			if sub != nil {
				attrs = append(attrs, "subject", sub.Subject)
			}
			logger.Log(context.Background(), level, "NATS reports an error", attrs...)
		}),
	}
	credentials, err := c.credentials()
	if err != nil {
		return nil, err
	}
	return append(opts, credentials...), nil
}

// refusal reports whether err says that the server does not take who connects.
func refusal(err error) bool {
	return errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrAuthExpired) ||
		errors.Is(err, nats.ErrAuthRevoked) || errors.Is(err, nats.ErrAccountAuthExpired)
}

// credentials returns what the settings say about who connects, and how, and where
// they may get answers.
func (c *connector) credentials() ([]nats.Option, error) {
	var opts []nats.Option
	if s := c.settings; s.Creds != "" {
		if err := checkCreds(s.Creds); err != nil {
			return nil, fmt.Errorf("nats.creds: %w", err)
		}
		opts = append(opts, nats.UserCredentials(s.Creds))
	} else if s.NKey != "" {
		nkey, err := nats.NkeyOptionFromSeed(s.NKey)
		if err != nil {
			return nil, fmt.Errorf("nats.nkey: %s: %w", s.NKey, err)
		}
		opts = append(opts, nkey)
	} else if s.User != "" {
		opts = append(opts, nats.UserInfo(s.User, string(s.Password)))
	}
	if prefix := c.settings.InboxPrefix; prefix != "" {
		opts = append(opts, nats.CustomInboxPrefix(prefix))
	}
	if tls := c.settings.TLS; tls != (config.TLS{}) {
		opts = append(opts, nats.Secure())
		if tls.CA != "" {
			opts = append(opts, nats.RootCAs(tls.CA))
		}
		if tls.Cert != "" {
			opts = append(opts, nats.ClientCert(tls.Cert, tls.Key))
		}
	}
	return opts, nil
}

// checkCreds fails where a credentials file has no user in it, which would be known only
// when the server is there.
func checkCreds(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	pair, err := nkeys.ParseDecoratedNKey(text)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	pair.Wipe()
	if jwt, err := nkeys.ParseDecoratedJWT(text); err != nil || strings.Count(jwt, ".") != 2 {
		return fmt.Errorf("%s: no user JWT found", path)
	}
	return nil
}
