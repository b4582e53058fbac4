//! TLS between the processes of one cluster: version 1.3, both sides prove who they are, nobody else's authority counts.
//!
//! Every connection has its own verifier, which keeps what it found: who the other side is, or a sentence that says why
//! it cannot be believed. rustls' own errors become sentences here too, so that both sides can say what to do.
//!
//! Not here: certificates and keys (`credentials`, `authority`), moving bytes (`channel`).

use super::credentials::Credentials;
use super::credentials::Fingerprint;
use super::credentials::Material;
use super::credentials::PROVIDER;
use super::credentials::date;
use super::credentials::identity;
use super::credentials::stamp;
use super::credentials::unix_time;
use super::credentials::verify;
use super::error::NetError;
use super::greet::Proof;
use super::identity::Identity;
use crate::env::Clock;
use crate::types::NodeId;
use crate::types::Stamp;
use parking_lot::Mutex;
use rustls::AlertDescription;
use rustls::CertificateError;
use rustls::ClientConfig;
use rustls::DigitallySignedStruct;
use rustls::DistinguishedName;
use rustls::Error;
use rustls::ServerConfig;
use rustls::SignatureScheme;
use rustls::client::Resumption;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::danger::ServerCertVerified;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::verify_tls13_signature;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::ServerName;
use rustls::pki_types::UnixTime;
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::ClientCertVerified;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;
use rustls::sign::SingleCertAndKey;
use rustls::time_provider::TimeProvider;
use rustls::version::TLS13;
use std::fmt;
use std::sync::Arc;
use webpki::EndEntityCert;
use webpki::KeyUsage;

/// What is expected of the other side.
#[derive(Debug)]
enum Expected {
    /// A node of this material's store, this one if it is given.
    Node(Arc<Material>, Option<NodeId>),
    /// A node or a client of this material's store; `strangers` too, who then are nobody.
    Anybody { material: Arc<Material>, strangers: bool },
    /// A node with a certificate of the authority that has this fingerprint.
    Pinned(Fingerprint),
}

impl Expected {
    fn material(&self) -> Option<&Material> {
        match self {
            Expected::Node(material, _) | Expected::Anybody { material, .. } => Some(material),
            Expected::Pinned(_) => None,
        }
    }
}

/// Verifies the other side of one connection, and keeps what it found.
#[derive(Debug)]
pub(super) struct Verifier {
    expected: Expected,
    /// Who it is; or why it is not believed.
    found: Mutex<Option<Result<Identity, String>>>,
}

/// A connection that is about to begin, and who will be at its other end.
pub(super) struct Secured {
    tls: rustls::Connection,
    verifier: Arc<Verifier>,
}

impl Secured {
    pub(super) fn parts(self) -> (Proof, Option<rustls::Connection>) {
        (Proof::Tls(self.verifier), Some(self.tls))
    }
}

/// Dials with a certificate.
pub(super) fn dial(credentials: &Credentials, node: Option<NodeId>) -> Result<Secured, NetError> {
    let material = credentials.current();
    let key = Arc::clone(&material.key);
    secure_dial(Expected::Node(material, node), Some(key), &credentials.clock)
}

/// Dials without one, to ask for one.
pub(super) fn dial_pinned(
    authority: Fingerprint,
    clock: &Arc<dyn Clock>,
) -> Result<Secured, NetError> {
    secure_dial(Expected::Pinned(authority), None, clock)
}

fn secure_dial(
    expected: Expected,
    key: Option<Arc<CertifiedKey>>,
    clock: &Arc<dyn Clock>,
) -> Result<Secured, NetError> {
    let verifier = Verifier::new(expected);
    let builder = ClientConfig::builder_with_details(Arc::clone(&PROVIDER), Wall::of(clock))
        .with_protocol_versions(&[&TLS13])
        .map_err(unusable)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&verifier) as _);
    let mut config = match key {
        Some(key) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key))),
        None => builder.with_no_client_auth(),
    };
    // Who is there is proven anew each time, and not told to those who listen.
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    let name = ServerName::try_from("node.tsfs").expect("it has the form of a name");
    let tls = rustls::ClientConnection::new(Arc::new(config), name).map_err(unusable)?;
    Ok(Secured { tls: tls.into(), verifier })
}

/// Accepts; `strangers` without a certificate too.
pub(super) fn accept(credentials: &Credentials, strangers: bool) -> Result<Secured, NetError> {
    let material = credentials.current();
    let key = Arc::new(SingleCertAndKey::from(Arc::clone(&material.key)));
    let verifier = Verifier::new(Expected::Anybody { material, strangers });
    let wall = Wall::of(&credentials.clock);
    let mut config = ServerConfig::builder_with_details(Arc::clone(&PROVIDER), wall)
        .with_protocol_versions(&[&TLS13])
        .map_err(unusable)?
        .with_client_cert_verifier(Arc::clone(&verifier) as _)
        .with_cert_resolver(key);
    // Who is there is proven anew each time.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    let tls = rustls::ServerConnection::new(Arc::new(config)).map_err(unusable)?;
    Ok(Secured { tls: tls.into(), verifier })
}

fn unusable(error: Error) -> NetError {
    NetError::Local(format!("TLS cannot be used: {error}"))
}

impl Verifier {
    fn new(expected: Expected) -> Arc<Verifier> {
        Arc::new(Verifier { expected, found: Mutex::new(None) })
    }

    /// Who the other side proved to be, once something came from it.
    pub(super) fn identity(&self) -> Identity {
        match &*self.found.lock() {
            Some(Ok(identity)) => identity.clone(),
            _ => Identity::Nobody,
        }
    }

    /// What an error of TLS means, for people at this side.
    pub(super) fn explain(&self, error: &Error, now: Stamp) -> String {
        if let Some(Err(sentence)) = &*self.found.lock() {
            return sentence.clone();
        }
        match error {
            Error::NoCertificatesPresented => {
                "it has no certificate, and only a program that joins may come without".to_owned()
            }
            Error::AlertReceived(alert) => match self.expected.material() {
                Some(material) => refused(material, *alert, now),
                None if *alert == AlertDescription::CertificateRequired => {
                    "it takes nobody without a certificate now: ask there for an invitation"
                        .to_owned()
                }
                None => format!("it ends TLS: {alert:?}"),
            },
            error => format!("no TLS as tsfs speaks it: {error}"),
        }
    }

    fn check(
        &self,
        certificate: &CertificateDer<'_>,
        sent: &[CertificateDer<'_>],
        time: UnixTime,
        usage: KeyUsage,
    ) -> Result<(), Error> {
        let judged = self.expected.judge(certificate, sent, time, usage);
        let (found, result) = match judged {
            Ok(identity) => (Ok(identity), Ok(())),
            Err((sentence, error)) => (Err(sentence), Err(Error::InvalidCertificate(error))),
        };
        *self.found.lock() = Some(found);
        result
    }
}

/// A sentence for this side, and what rustls tells the other.
type Disbelief = (String, CertificateError);

impl Expected {
    fn judge(
        &self,
        certificate: &CertificateDer<'_>,
        sent: &[CertificateDer<'_>],
        time: UnixTime,
        usage: KeyUsage,
    ) -> Result<Identity, Disbelief> {
        let unreadable = |error: webpki::Error| {
            (format!("its certificate cannot be read: {error}"), CertificateError::BadEncoding)
        };
        let certificate = EndEntityCert::try_from(certificate).map_err(unreadable)?;
        let Some(identity) = identity(&certificate) else {
            let sentence = "its certificate is not one of tsfs".to_owned();
            return Err((sentence, CertificateError::UnknownIssuer));
        };
        let foreign = |what: &str| {
            (format!("the certificate of {identity} is {what}"), CertificateError::UnknownIssuer)
        };
        let pinned;
        let anchors = match self {
            Expected::Node(material, _) | Expected::Anybody { material, .. } => {
                if identity.store() != Some(material.store()) {
                    return Err(foreign("of another cluster"));
                }
                &*material.anchors
            }
            Expected::Pinned(pin) => {
                let authority = sent.iter().find(|sent| Fingerprint::of(sent) == *pin);
                let authority = authority.ok_or_else(|| {
                    foreign("not of the cluster that made the token: ask there for a new token")
                })?;
                pinned = [webpki::anchor_from_trusted_cert(authority).map_err(unreadable)?];
                &pinned
            }
        };
        verify(&certificate, anchors, time, usage).map_err(|error| doubt(&identity, error))?;
        self.expect(&identity)?;
        Ok(identity)
    }

    /// Whether somebody who proved to be this is who was expected.
    fn expect(&self, identity: &Identity) -> Result<(), Disbelief> {
        let expected = match (self, identity) {
            (Expected::Anybody { .. }, _) | (Expected::Pinned(_), Identity::Node { .. }) => {
                return Ok(());
            }
            (Expected::Node(_, expected), Identity::Node { node, .. }) => match expected {
                Some(expected) if expected != node => format!("node {}", expected.0),
                _ => return Ok(()),
            },
            _ => "a node".to_owned(),
        };
        let sentence = format!("{identity} is there, not {expected}: the address is another's");
        Err((sentence, CertificateError::ApplicationVerificationFailure))
    }
}

/// How to get a new certificate.
fn renewal(identity: &Identity) -> String {
    match identity {
        Identity::Client { name, .. } => {
            format!("make a new one with 'tsfs cluster client {}'", name.escape_debug())
        }
        _ => "a node renews it by itself: start that node again, and look at its log".to_owned(),
    }
}

/// Why the certificate of somebody is not believed.
fn doubt(who: &Identity, error: webpki::Error) -> Disbelief {
    match error {
        webpki::Error::CertExpired { time, not_after } => {
            let (date, renewal) = (date(stamp(not_after)), renewal(who));
            let sentence = format!("the certificate of {who} expired on {date}; {renewal}");
            (sentence, CertificateError::ExpiredContext { time, not_after })
        }
        webpki::Error::CertNotValidYet { time, not_before } => {
            let (date, now) = (date(stamp(not_before)), date(stamp(time)));
            let sentence = format!(
                "the certificate of {who} is valid from {date}, and here it is {now}: set the clocks of both machines"
            );
            (sentence, CertificateError::NotValidYetContext { time, not_before })
        }
        error => {
            let sentence = format!(
                "the certificate of {who} was not made by this cluster's authority ({error})"
            );
            (sentence, CertificateError::UnknownIssuer)
        }
    }
}

/// Why this side's certificate was not believed, as far as the other side's alert tells.
fn refused(own: &Material, alert: AlertDescription, now: Stamp) -> String {
    let who = own.identity();
    match alert {
        AlertDescription::CertificateExpired if own.valid_until() < now => {
            let (date, renewal) = (date(own.valid_until()), renewal(who));
            format!("the certificate of {who}, used here, expired on {date}; {renewal}")
        }
        AlertDescription::CertificateExpired => {
            let (from, until) = (date(own.valid_from()), date(own.valid_until()));
            let now = date(now);
            format!(
                "the certificate of {who}, used here, is valid from {from} to {until}, which there it is not, and here it is {now}: set the clocks of both machines"
            )
        }
        AlertDescription::UnknownCA => {
            format!(
                "it does not know the authority of the certificate of {who}, used here: it is of another cluster"
            )
        }
        AlertDescription::AccessDenied => {
            format!("it did not expect {who}, which is here: the address it has is another's")
        }
        alert => format!("it does not accept the certificate of {who}, used here: {alert:?}"),
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        sent: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(certificate, sent, now, KeyUsage::server_auth())?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &PROVIDER.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        PROVIDER.signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        !matches!(self.expected, Expected::Anybody { strangers: true, .. })
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        sent: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(certificate, sent, now, KeyUsage::client_auth())?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ServerCertVerifier::verify_tls13_signature(self, message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ServerCertVerifier::supported_verify_schemes(self)
    }
}

fn no_tls12() -> Error {
    Error::General("TLS 1.2 is not spoken".to_owned())
}

/// The wall clock as rustls asks for it.
struct Wall(Arc<dyn Clock>);

impl Wall {
    fn of(clock: &Arc<dyn Clock>) -> Arc<Wall> {
        Arc::new(Wall(Arc::clone(clock)))
    }
}

impl fmt::Debug for Wall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wall")
    }
}

impl TimeProvider for Wall {
    fn current_time(&self) -> Option<UnixTime> {
        Some(unix_time(self.0.wall()))
    }
}
