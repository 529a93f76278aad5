//! Why a TLS handshake failed, as far as a person can do something about it.

use std::io;

use rustls::{AlertDescription, CertificateError, Error};

/// The kind of the cause. Who connects knows what to do about each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The server's certificate is of an authority that is not trusted.
    Authority,
    /// It is for other names.
    Name,
    /// It is not valid now.
    Time,
    /// It is of no use for another reason.
    Certificate,
    /// The server refuses, perhaps because it wants a certificate of this side.
    Server,
    /// What answers does not speak TLS.
    NoTls,
}

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The kind.
    pub cause: Cause,
    /// What happened, as a part of a sentence whose subject is before it: "its certificate has expired (…)".
    pub what: String,
}

/// The cause, if this is the error of a TLS handshake.
pub fn refused(error: &io::Error) -> Option<Refused> {
    let error = error.get_ref()?.downcast_ref::<Error>()?;
    let (cause, what) = match error {
        Error::InvalidCertificate(wrong) => of_certificate(wrong),
        Error::AlertReceived(alert) => (Cause::Server, told(*alert)),
        Error::InvalidMessage(_) | Error::InappropriateMessage { .. } => (Cause::NoTls, "no TLS is spoken there"),
        _ => (Cause::Certificate, "no encrypted connection"),
    };
    Some(Refused { cause, what: format!("{what} ({error})") })
}

fn of_certificate(wrong: &CertificateError) -> (Cause, &'static str) {
    use CertificateError as Wrong;
    match wrong {
        // The last ones: an authority of that name is trusted, and this is another one of the same name.
        Wrong::UnknownIssuer
        | Wrong::BadSignature
        | Wrong::UnsupportedSignatureAlgorithmContext { .. }
        | Wrong::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            (Cause::Authority, "its certificate is of an authority that is not trusted here")
        }
        Wrong::NotValidForName | Wrong::NotValidForNameContext { .. } => {
            (Cause::Name, "its certificate is for another name")
        }
        Wrong::Expired | Wrong::ExpiredContext { .. } => (Cause::Time, "its certificate has expired"),
        Wrong::NotValidYet | Wrong::NotValidYetContext { .. } => (Cause::Time, "its certificate is not valid yet"),
        // webpki's error is not public by its type.
        Wrong::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            (Cause::Certificate, "its certificate signs for itself: it is an authority's, which a server may not show")
        }
        _ => (Cause::Certificate, "its certificate is of no use"),
    }
}

fn told(alert: AlertDescription) -> &'static str {
    use AlertDescription as Alert;
    match alert {
        Alert::CertificateRequired | Alert::HandshakeFailure => "it wants a certificate of this side, or other ciphers",
        Alert::BadCertificate
        | Alert::UnknownCA
        | Alert::CertificateExpired
        | Alert::CertificateUnknown
        | Alert::UnsupportedCertificate
        | Alert::CertificateRevoked => "it does not take this side's certificate",
        _ => "it ends the TLS handshake",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_a_cause_and_a_text() {
        let of = |error: Error| refused(&io::Error::new(io::ErrorKind::InvalidData, error)).unwrap();
        for (error, cause, text) in [
            (Error::InvalidCertificate(CertificateError::UnknownIssuer), Cause::Authority, "not trusted here"),
            (Error::InvalidCertificate(CertificateError::BadSignature), Cause::Authority, "not trusted here"),
            (Error::InvalidCertificate(CertificateError::NotValidForName), Cause::Name, "another name"),
            (Error::InvalidCertificate(CertificateError::Expired), Cause::Time, "has expired"),
            (Error::InvalidCertificate(CertificateError::BadEncoding), Cause::Certificate, "of no use"),
            (Error::AlertReceived(AlertDescription::CertificateRequired), Cause::Server, "a certificate of this side"),
            (Error::AlertReceived(AlertDescription::UnknownCA), Cause::Server, "this side's certificate"),
            (Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType), Cause::NoTls, "no TLS"),
        ] {
            let refused = of(error);
            assert!(refused.cause == cause && refused.what.contains(text), "{refused:?}");
        }
        assert_eq!(refused(&io::Error::other("something else")), None);
        assert_eq!(refused(&io::ErrorKind::ConnectionRefused.into()), None);
    }
}
