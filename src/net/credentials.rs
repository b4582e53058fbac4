//! What a process proves itself with: its certificate, its key, and the authorities it believes. It can be replaced while
//! the process runs.
//!
//! Not here: making certificates (`authority`), believing those of others (`tls`).

use super::error::NetError;
use super::identity::Identity;
use super::identity::StoreId;
use crate::env::Clock;
use crate::types::Stamp;
use crate::types::instant;
use data_encoding::HEXLOWER;
use parking_lot::Mutex;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring as provider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::TrustAnchor;
use rustls::pki_types::UnixTime;
use rustls::pki_types::pem::PemObject;
use rustls::sign::CertifiedKey;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::LazyLock;
use std::time::Duration;
use webpki::EndEntityCert;
use webpki::KeyUsage;

/// Authorities that may stand beside each other, while one is replaced by the next.
const AUTHORITIES_MAX: usize = 8;
/// Most bytes of a file with a certificate: some KiB are usual.
const FILE_BYTES_MAX: u64 = 256 << 10;
/// A file is looked at again after this, when its certificate is used.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// SHA-256 of a certificate.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    pub fn of(certificate: &[u8]) -> Fingerprint {
        let digest = ring::digest::digest(&ring::digest::SHA256, certificate);
        Fingerprint(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

/// The algorithms: AES with the shorter key first, which is as good here and takes a third less time.
pub(super) static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    let mut provider = provider::default_provider();
    provider.cipher_suites = vec![
        provider::cipher_suite::TLS13_AES_128_GCM_SHA256,
        provider::cipher_suite::TLS13_AES_256_GCM_SHA384,
        provider::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    Arc::new(provider)
});

/// What a process proves itself with, and whom it believes: a certificate, its key, and the cluster's authorities.
pub struct Material {
    identity: Identity,
    store: StoreId,
    pub(super) key: Arc<CertifiedKey>,
    pub(super) anchors: Vec<TrustAnchor<'static>>,
    authority: Fingerprint,
    valid_from: Stamp,
    valid_until: Stamp,
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the certificate of {}", self.identity)
    }
}

impl Material {
    /// From text that has, as PEM: its certificate, its private key, and behind its certificate those of the authorities.
    ///
    /// # Errors
    /// `Unproven`: what is missing, or does not belong together. Not that it is expired: its peers say that.
    pub fn from_pem(text: &[u8]) -> Result<Material, NetError> {
        let wrong =
            |what: &str| NetError::Unproven(format!("this is no certificate of tsfs: {what}"));
        let certificates = CertificateDer::pem_slice_iter(text)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| wrong(&error.to_string()))?;
        let key =
            PrivateKeyDer::from_pem_slice(text).map_err(|_| wrong("it has no private key"))?;
        let [own, authorities @ ..] = &*certificates else {
            return Err(wrong("it has no certificate"));
        };
        if authorities.is_empty() || authorities.len() > AUTHORITIES_MAX {
            let count = authorities.len();
            return Err(wrong(&format!("{count} authorities, where 1 to {AUTHORITIES_MAX} are")));
        }
        let anchors = authorities
            .iter()
            .map(|authority| Ok(webpki::anchor_from_trusted_cert(authority)?.to_owned()))
            .collect::<Result<Vec<_>, webpki::Error>>()
            .map_err(|error| wrong(&error.to_string()))?;
        let certificate =
            EndEntityCert::try_from(own).map_err(|error| wrong(&error.to_string()))?;
        let identity = identity(&certificate).ok_or_else(|| wrong("it has no name of tsfs"))?;
        let store = identity.store().expect("a certificate names its store");
        let (valid_from, valid_until) =
            validity(&certificate).ok_or_else(|| wrong("no validity"))?;
        let time = unix_time(valid_from);
        verify(&certificate, &anchors, time, KeyUsage::client_auth())
            .map_err(|error| wrong(&format!("its authority did not make it ({error})")))?;
        let authority = Fingerprint::of(&authorities[0]);
        let key = CertifiedKey::from_der(certificates.clone(), key, &PROVIDER)
            .map_err(|error| wrong(&error.to_string()))?;
        let key = Arc::new(key);
        Ok(Material { identity, store, key, anchors, authority, valid_from, valid_until })
    }

    /// # Errors
    /// `Local` where the file cannot be read, or others can read it; as for `from_pem`.
    pub fn load(path: &Path) -> Result<Material, NetError> {
        let failed = |error: io::Error| NetError::Local(format!("{}: {error}", path.display()));
        let facts = fs::metadata(path).map_err(failed)?;
        if facts.mode() & 0o077 != 0 {
            let at = path.display();
            let why = format!("{at} has a private key and others may read it: 'chmod 600 {at}'");
            return Err(NetError::Local(why));
        }
        if facts.len() > FILE_BYTES_MAX {
            let why = format!("{} is too large for a certificate", path.display());
            return Err(NetError::Local(why));
        }
        let text = fs::read(path).map_err(failed)?;
        Material::from_pem(&text)
            .map_err(|error| NetError::Unproven(format!("{}: {error}", path.display())))
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    pub fn store(&self) -> StoreId {
        self.store
    }

    /// Of the authority that made it.
    pub fn authority(&self) -> Fingerprint {
        self.authority
    }

    pub fn valid_from(&self) -> Stamp {
        self.valid_from
    }

    pub fn valid_until(&self) -> Stamp {
        self.valid_until
    }
}

/// The material that new connections use. It can be replaced while the process runs; connections that are there go on.
pub struct Credentials {
    pub(super) clock: Arc<dyn Clock>,
    path: Option<PathBuf>,
    state: Mutex<Current>,
}

struct Current {
    material: Arc<Material>,
    /// Of the file that it was read from: size, modification, inode.
    file: Option<FileFacts>,
    looked: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct FileFacts(u64, i64, i64, u64);

impl FileFacts {
    fn of(path: &Path) -> Option<FileFacts> {
        let facts = fs::metadata(path).ok()?;
        Some(FileFacts(facts.len(), facts.mtime(), facts.mtime_nsec(), facts.ino()))
    }
}

impl Credentials {
    pub fn new(clock: Arc<dyn Clock>, material: Material) -> Arc<Credentials> {
        let looked = clock.steady();
        let state = Current { material: Arc::new(material), file: None, looked };
        Arc::new(Credentials { clock, path: None, state: Mutex::new(state) })
    }

    /// From a file, which is read again when it changes.
    ///
    /// # Errors
    /// As for `Material::load`.
    pub fn load(clock: Arc<dyn Clock>, path: &Path) -> Result<Arc<Credentials>, NetError> {
        // Looked at before it is read: what changes in between is seen at the next look.
        let (file, looked) = (FileFacts::of(path), clock.steady());
        let material = Arc::new(Material::load(path)?);
        let state = Mutex::new(Current { material, file, looked });
        Ok(Arc::new(Credentials { clock, path: Some(path.to_owned()), state }))
    }

    /// What is used from now on.
    pub fn replace(&self, material: Material) {
        self.state.lock().material = Arc::new(material);
    }

    /// What to use now. A file that changed is read again; if that fails, what was there stays, with a line in the log.
    pub fn current(&self) -> Arc<Material> {
        let mut state = self.state.lock();
        let now = self.clock.steady();
        if let Some(path) = &self.path
            && now.saturating_sub(state.looked) >= LOOK_AGAIN
        {
            state.looked = now;
            let file = FileFacts::of(path);
            if file != state.file {
                state.file = file;
                match Material::load(path) {
                    Ok(material) => state.material = Arc::new(material),
                    Err(error) => tracing::warn!(%error, "the certificate in use is kept"),
                }
            }
        }
        Arc::clone(&state.material)
    }
}

pub(super) fn verify(
    certificate: &EndEntityCert<'_>,
    anchors: &[TrustAnchor<'_>],
    time: UnixTime,
    usage: KeyUsage,
) -> Result<(), webpki::Error> {
    let algorithms = PROVIDER.signature_verification_algorithms.all;
    // The authority signs what it issues itself: there is nothing in between.
    certificate.verify_for_usage(algorithms, anchors, &[], time, usage, None, None).map(drop)
}

/// Who a certificate is for, whether it can be believed or not.
pub(super) fn identity(certificate: &EndEntityCert<'_>) -> Option<Identity> {
    certificate.valid_dns_names().find_map(Identity::from_name)
}

/// From when until when, both included.
fn validity(certificate: &EndEntityCert<'_>) -> Option<(Stamp, Stamp)> {
    // The one way to learn it from webpki is to be refused, which it does for this before anything else.
    let at = |time| {
        let time = UnixTime::since_unix_epoch(Duration::from_secs(time));
        match verify(certificate, &[], time, KeyUsage::client_auth()) {
            Err(webpki::Error::CertNotValidYet { not_before, .. }) => Some(not_before),
            Err(webpki::Error::CertExpired { not_after, .. }) => Some(not_after),
            _ => None,
        }
    };
    // 253,402,300,799 is the end of the year 9999, the last that a certificate can name.
    Some((stamp(at(0)?), stamp(at(253_402_300_800)?)))
}

pub(super) fn stamp(time: UnixTime) -> Stamp {
    Stamp(time.as_secs().saturating_mul(1_000_000_000))
}

/// A time in a sentence: certificates know no fractions of a second.
pub(super) fn date(stamp: Stamp) -> String {
    let text = instant::utc(stamp);
    format!("{} UTC", text.get(..19).unwrap_or(&text).replace('T', " "))
}

pub(super) fn unix_time(stamp: Stamp) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_nanos(stamp.0))
}
