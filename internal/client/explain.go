package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"syscall"

	"connectrpc.com/connect"
)

// Explain turns an error of this package or of a call into what a person needs: what went wrong and what to do next, in
// one or two lines and without codes. It is "" for nil.
func Explain(err error) string {
	if err == nil {
		return ""
	}
	if text := certificateProblem(err); text != "" {
		return text
	}
	if errors.Is(err, errStalled) {
		return err.Error() + ": check the network, then run the same command again; it goes on where it stopped"
	}
	if e, ok := errors.AsType[*ConnectError](err); ok {
		return explainUnreachable(e)
	}
	if e, ok := errors.AsType[*StatusError](err); ok {
		return e.Error() + stepFor(codeOf(e.Status))
	}
	if e, ok := errors.AsType[*connect.Error](err); ok {
		return explainCall(err, e)
	}
	return err.Error()
}

// explainCall explains an answer of the API.
func explainCall(err error, e *connect.Error) string {
	text := e.Message()
	if text == "" {
		text = strings.ReplaceAll(e.Code().String(), "_", " ")
	}
	if prefix, ok := strings.CutSuffix(err.Error(), e.Error()); ok && prefix != "" {
		text = prefix + text
	}
	return text + stepFor(e.Code())
}

// stepFor is the next step for a status, when the server's own text does not hold one.
func stepFor(code connect.Code) string {
	switch code {
	case connect.CodePermissionDenied:
		return "\n(`murmur whoami` shows who you are and your role)"
	case connect.CodeUnimplemented:
		return "\n(the server does not know this command: it may be older than this program; compare `murmur --version`)"
	case connect.CodeUnavailable:
		return "\n(nothing is lost: try again in a moment; hosts keep running, and `murmur-agent rollback` works on a host without the control plane)"
	case connect.CodeDeadlineExceeded:
		return "\n(try again; if it stays slow, look at the server's log)"
	}
	return ""
}

func codeOf(status int) connect.Code {
	switch status {
	case http.StatusForbidden:
		return connect.CodePermissionDenied
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return connect.CodeUnavailable
	}
	return connect.CodeUnknown
}

func explainUnreachable(e *ConnectError) string {
	switch {
	case errors.Is(e.err, context.Canceled):
		return "cancelled"
	case errors.Is(e.err, syscall.ECONNREFUSED):
		return fmt.Sprintf("cannot reach %s: connection refused: is the control plane running? try `murmur up`", e.Server)
	case errors.Is(e.err, context.DeadlineExceeded), isTimeout(e.err):
		return fmt.Sprintf("cannot reach %s: no answer in time: check the address, the network and the firewall", e.Server)
	case strings.Contains(e.err.Error(), "no such host"):
		return fmt.Sprintf("cannot reach %s: the name is unknown: check the address (MURMUR_SERVER, or `murmur login URL`)", e.Server)
	case strings.Contains(e.err.Error(), "server gave HTTP response to HTTPS client"):
		return fmt.Sprintf("cannot reach %s: the server there speaks plain http: check the port", e.Server)
	}
	return e.Error()
}

func isTimeout(err error) bool {
	t, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err)
	return ok && t.Timeout()
}

// certificateProblem explains an error of TLS, "" for others.
func certificateProblem(err error) string {
	server := "the server"
	if e, ok := errors.AsType[*ConnectError](err); ok {
		server = e.Server
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return fmt.Sprintf("%s is not of the fleet that this context trusts: is MURMUR_CA, or the CA given to `murmur login`, the right fleet's?", server)
	}
	if e, ok := errors.AsType[x509.CertificateInvalidError](err); ok && e.Reason == x509.Expired {
		return fmt.Sprintf("the certificate of %s is not valid now: compare this machine's clock with the server's", server)
	}
	if e, ok := errors.AsType[x509.HostnameError](err); ok {
		return fmt.Sprintf("the certificate of %s is not for %q: use a name it was made for, or add this one to the server's names", server, e.Host)
	}
	if e, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return fmt.Sprintf("the certificate of %s cannot be verified: %v", server, e.Err)
	}
	return ""
}
