//! The cluster's own authority: it says who is who, by certificates for its nodes and clients. Nobody else's word counts.
//!
//! Its key is kept where only nodes can read it. Not here: whom to give a certificate, believing one (`tls`).

use super::credentials::Fingerprint;
use super::error::NetError;
use super::identity::CLIENT_NAME_BYTES_MAX;
use super::identity::Identity;
use super::identity::StoreId;
use crate::env;
use crate::types::Stamp;
use data_encoding::BASE64;
use rcgen::BasicConstraints;
use rcgen::CertificateParams;
use rcgen::DistinguishedName;
use rcgen::DnType;
use rcgen::ExtendedKeyUsagePurpose;
use rcgen::IsCa;
use rcgen::Issuer;
use rcgen::KeyPair;
use rcgen::KeyUsagePurpose;
use rcgen::PKCS_ECDSA_P256_SHA256;
use rcgen::PublicKeyData;
use rcgen::SerialNumber;
use rcgen::SignatureAlgorithm;
use rcgen::SigningKey;
use ring::signature::ECDSA_P256_SHA256_ASN1;
use ring::signature::UnparsedPublicKey;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use std::fmt;
use std::fs;
use std::io;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long the authority is good for. Certificates are not made beyond it.
const AUTHORITY_VALID: Duration = Duration::from_secs(10 * 366 * 24 * 3600);
/// Certificates begin so long before they are made: not every clock is right.
const EARLIER: Duration = DAY;
/// Most characters of a name that people read in a certificate.
const TITLE_CHARS_MAX: usize = 64;

const VERSION: u8 = 1;
/// A public key as a request has it: a point of P-256, not compressed.
const POINT_BYTES: usize = 65;
/// What a request signs, before its key: so that the signature is good for nothing else.
const REQUEST_CONTEXT: &[u8] = b"tsfs asks for a certificate, 1";

/// The authority with its key.
pub struct Authority {
    store: StoreId,
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the authority of {}, {:?}", self.store, self.fingerprint())
    }
}

impl Authority {
    /// A new one, for ten years.
    ///
    /// # Errors
    /// `Local`: the clock names no year that a certificate can.
    pub fn make(store: StoreId, now: Stamp) -> Result<Authority, NetError> {
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = authority_params(store);
        set_validity(&mut params, now, AUTHORITY_VALID)?;
        let certificate = params.self_signed(&key).map_err(failed)?.der().clone();
        Ok(Authority { store, issuer: Issuer::new(params, key), certificate })
    }

    /// The bytes that are kept: version 1, store 16, length of the certificate 4 (little-endian), certificate, key.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&self.store.0);
        bytes.extend_from_slice(&(self.certificate.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&self.certificate);
        bytes.extend_from_slice(self.issuer.key().serialized_der());
        bytes
    }

    /// # Errors
    /// `Local`: these are not the bytes of one.
    pub fn from_bytes(bytes: &[u8]) -> Result<Authority, NetError> {
        let wrong =
            |what: &str| NetError::Local(format!("the stored authority is damaged: {what}"));
        let (&version, rest) = bytes.split_first().ok_or_else(|| wrong("it is empty"))?;
        if version != VERSION {
            return Err(wrong(&format!("version {version}, this program reads {VERSION}")));
        }
        let (store, rest) = rest.split_first_chunk().ok_or_else(|| wrong("it was cut"))?;
        let (length, rest) = rest.split_first_chunk().ok_or_else(|| wrong("it was cut"))?;
        let length = u32::from_le_bytes(*length) as usize;
        let (certificate, key) =
            rest.split_at_checked(length).ok_or_else(|| wrong("it was cut"))?;
        let key = PrivatePkcs8KeyDer::from(key);
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&key, &PKCS_ECDSA_P256_SHA256)
            .map_err(|error| wrong(&error.to_string()))?;
        let store = StoreId(*store);
        let certificate = CertificateDer::from(certificate.to_vec());
        Ok(Authority { store, issuer: Issuer::new(authority_params(store), key), certificate })
    }

    pub fn store(&self) -> StoreId {
        self.store
    }

    /// By which a program that has no certificate yet knows it.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }

    /// A certificate with a new key, for a node or a client: the text of a file for `Credentials`.
    ///
    /// # Errors
    /// `Local`: the identity is of another store, has no name, or one too long.
    pub fn issue(
        &self,
        identity: &Identity,
        now: Stamp,
        valid: Duration,
    ) -> Result<String, NetError> {
        let key = KeyPair::generate().map_err(failed)?;
        let certificates = self.certify(identity, &key, now, valid)?;
        Ok(certificates + &pem("PRIVATE KEY", key.serialized_der()))
    }

    /// A certificate for somebody else's key, which this does not see: the text that `PendingKey` completes.
    ///
    /// # Errors
    /// As for `issue`.
    pub fn issue_for(
        &self,
        request: &KeyRequest,
        identity: &Identity,
        now: Stamp,
        valid: Duration,
    ) -> Result<String, NetError> {
        self.certify(identity, request, now, valid)
    }

    fn certify(
        &self,
        identity: &Identity,
        key: &impl PublicKeyData,
        now: Stamp,
        valid: Duration,
    ) -> Result<String, NetError> {
        let refused =
            |what: &str| Err(NetError::Local(format!("no certificate for {identity}: {what}")));
        if identity.store() != Some(self.store) {
            return refused("it is not of this store");
        }
        let mut usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        match identity {
            Identity::Client { name, .. } if name.is_empty() => return refused("it has no name"),
            Identity::Client { name, .. } if name.len() > CLIENT_NAME_BYTES_MAX => {
                return refused(&format!("a name has at most {CLIENT_NAME_BYTES_MAX} bytes"));
            }
            Identity::Node { node, .. } if node.0 == 0 => return refused("nodes count from 1"),
            // Nodes call each other.
            Identity::Node { .. } => usages.push(ExtendedKeyUsagePurpose::ServerAuth),
            _ => {}
        }
        let mut params = CertificateParams::new(identity.names()).map_err(failed)?;
        params.distinguished_name = title(&format!("tsfs {identity}"));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages;
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, now, valid)?;
        let certificate = params.signed_by(key, &self.issuer).map_err(failed)?;
        let own = pem("CERTIFICATE", certificate.der());
        Ok(own + &pem("CERTIFICATE", &self.certificate))
    }
}

/// What makes an authority's certificate recognised as the issuer of others; the same each time for a store.
fn authority_params(store: StoreId) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = title(&format!("tsfs authority {store}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

fn title(text: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    let text: String = text.chars().take(TITLE_CHARS_MAX).collect();
    name.push(DnType::CommonName, text);
    name
}

fn set_validity(
    params: &mut CertificateParams,
    now: Stamp,
    valid: Duration,
) -> Result<(), NetError> {
    let seconds = Duration::from_secs(now.0 / 1_000_000_000);
    let until = seconds.saturating_add(valid);
    // The last year that a certificate can name, and the library's own limit.
    if until > 8_000 * 365 * DAY {
        return Err(NetError::Local("no certificate is valid for so long".to_owned()));
    }
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + seconds.saturating_sub(EARLIER);
    params.not_after = epoch + until;
    // Never twice, and positive.
    let mut serial = env::random::<16>();
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(())
}

fn failed(error: rcgen::Error) -> NetError {
    NetError::Local(format!("make a certificate: {error}"))
}

fn pem(label: &str, bytes: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    let encoded = BASE64.encode(bytes);
    for line in encoded.as_bytes().chunks(64) {
        text.push_str(std::str::from_utf8(line).expect("base64 is ASCII"));
        text.push('\n');
    }
    text + &format!("-----END {label}-----\n")
}

/// A key that waits for its certificate. It never leaves the machine.
pub struct PendingKey(KeyPair);

impl PendingKey {
    /// # Errors
    /// `Local`: there is no key to be had.
    pub fn generate() -> Result<PendingKey, NetError> {
        Ok(PendingKey(KeyPair::generate().map_err(failed)?))
    }

    /// What to send to the authority: version 1, the public key, and a signature that proves the private one.
    ///
    /// # Errors
    /// `Local`: it cannot sign.
    pub fn request(&self) -> Result<Vec<u8>, NetError> {
        let point = self.0.der_bytes();
        let signature = self.0.sign(&[REQUEST_CONTEXT, point].concat()).map_err(failed)?;
        Ok([&[VERSION], point, &signature].concat())
    }

    /// The text of a file for `Credentials`, with what the authority answered: checked to be from the authority with this
    /// fingerprint.
    ///
    /// # Errors
    /// `Unproven`: it is from another.
    pub fn complete(self, certificates: &str, authority: Fingerprint) -> Result<String, NetError> {
        let theirs = CertificateDer::pem_slice_iter(certificates.as_bytes()).nth(1);
        let same = matches!(theirs, Some(Ok(theirs)) if Fingerprint::of(&theirs) == authority);
        if !same {
            let why = "the certificate is not from the cluster that made the token";
            return Err(NetError::Unproven(why.to_owned()));
        }
        Ok(certificates.to_owned() + &pem("PRIVATE KEY", self.0.serialized_der()))
    }
}

/// A public key whose owner asks for a certificate.
pub struct KeyRequest(Vec<u8>);

impl KeyRequest {
    /// # Errors
    /// `Unproven`: it is none, or does not prove that the private key is there.
    pub fn from_bytes(bytes: &[u8]) -> Result<KeyRequest, NetError> {
        let wrong =
            |what: &str| NetError::Unproven(format!("this asks for no certificate: {what}"));
        let (&version, rest) = bytes.split_first().ok_or_else(|| wrong("it is empty"))?;
        if version != VERSION {
            return Err(wrong(&format!("version {version}, this program reads {VERSION}")));
        }
        let (point, signature) =
            rest.split_at_checked(POINT_BYTES).ok_or_else(|| wrong("it was cut"))?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point)
            .verify(&[REQUEST_CONTEXT, point].concat(), signature)
            .map_err(|_| wrong("its signature is wrong"))?;
        Ok(KeyRequest(point.to_vec()))
    }
}

impl PublicKeyData for KeyRequest {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

/// Writes a file that only its owner can read, in place of what is there: all of it or nothing.
///
/// # Errors
/// `Local`.
pub fn write_private(path: &Path, text: &[u8]) -> Result<(), NetError> {
    let write = || -> io::Result<()> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
        let made =
            path.with_file_name(format!(".{name}.{:016x}", u64::from_le_bytes(env::random())));
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&made)?;
        let written = file.write_all(text).and_then(|()| file.sync_all());
        let renamed = written.and_then(|()| fs::rename(&made, path));
        if renamed.is_err() {
            // What failed is told; a file that cannot even be removed is empty or cut, and readable by its owner only.
            let _ = fs::remove_file(&made);
        }
        renamed?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        fs::File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(|error| NetError::Local(format!("write {}: {error}", path.display())))
}
