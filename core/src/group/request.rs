//! The request of a node for its certificate (PKCS#10, RFC 2986).

use core::fmt;

use bytes::Bytes;
use der::Decode;
use ed25519_dalek::SigningKey;
use x509_cert::builder::Builder;
use x509_cert::name::Name;
use x509_cert::request::{CertReq, ExtensionReq, RequestBuilder};
use x25519_dalek::{PublicKey, StaticSecret};

use super::error::CertificateError::{self, BadProfile};
use super::oid;
use super::pem::{self, PemError};
use super::signature;
use super::x509;

/// Longest request in bytes. Ours has about 200; the rest is room for attributes that other tools add.
pub const MAX_REQUEST_LEN: usize = 1024;

/// A request whose signature proves that its sender holds the Ed25519 key. It carries keys only: name, roles and node ID are for the CA to say.
#[derive(Clone, PartialEq, Eq)]
pub struct Request {
    der: Bytes,
    public_key: [u8; 32],
    dh_public: [u8; 32],
}

impl Request {
    /// A request for these keys.
    #[must_use]
    pub fn create(signing_key: &[u8; 32], dh_public: &[u8; 32]) -> Self {
        let key = SigningKey::from_bytes(signing_key);
        let mut builder = RequestBuilder::new(Name::default()).expect("an empty name is allowed");
        builder.add_extension(x509::octets_extension(oid::DH_PUBLIC, dh_public)).expect("the extension is encoded already");
        let request: CertReq = builder.build::<_, ed25519_dalek::Signature>(&key).expect("signing with a key at hand does not fail");
        Self { der: x509::encode(&request).into(), public_key: key.verifying_key().to_bytes(), dh_public: *dh_public }
    }

    /// Reads a request: canonical DER of at most [`MAX_REQUEST_LEN`] bytes, signed by the key in it, with an X25519 key of full order.
    ///
    /// # Errors
    /// `Malformed`, `BadProfile` with the name of the field, or `BadSignature`.
    pub fn parse(der: &[u8]) -> Result<Self, CertificateError> {
        let (decoded, signed) = x509::decode::<CertReq>(der, MAX_REQUEST_LEN)?;
        if !x509::is_ed25519(&decoded.algorithm) {
            return Err(BadProfile("signature algorithm"));
        }
        let public_key = x509::public_key(&decoded.info.public_key).ok_or(BadProfile("public key"))?;
        let signature = x509::signature(&decoded.signature).ok_or(BadProfile("signature"))?;
        let dh_public = dh_public(&decoded)?;
        if !signature::verify_bytes(&public_key, &der[signed], &signature) {
            return Err(CertificateError::BadSignature);
        }
        Ok(Self { der: Bytes::copy_from_slice(der), public_key, dh_public })
    }

    /// Reads the first request in a PEM text.
    ///
    /// # Errors
    /// No PEM, or what [`parse`](Self::parse) says.
    pub fn from_pem(text: &str) -> Result<Self, PemError> {
        Ok(Self::parse(&pem::decode(pem::REQUEST, text)?)?)
    }

    /// The request as PEM.
    #[must_use]
    pub fn to_pem(&self) -> String {
        pem::encode(pem::REQUEST, &self.der)
    }

    /// The request in DER.
    #[must_use]
    pub const fn der(&self) -> &Bytes {
        &self.der
    }

    /// The Ed25519 public key.
    #[must_use]
    pub const fn public_key(&self) -> [u8; 32] {
        self.public_key
    }

    /// The X25519 public key.
    #[must_use]
    pub const fn dh_public(&self) -> [u8; 32] {
        self.dh_public
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.public_key;
        write!(f, "Request({a:02x}{b:02x}{c:02x}{d:02x})")
    }
}

/// The X25519 key in the extensions that the request asks for. Other attributes are ignored, as no word of the request but its keys counts.
fn dh_public(request: &CertReq) -> Result<[u8; 32], CertificateError> {
    let wrong = BadProfile("X25519 key");
    let mut attributes =
        request.info.attributes.iter().filter(|attribute| attribute.oid == <ExtensionReq as const_oid::AssociatedOid>::OID);
    let (Some(attribute), None) = (attributes.next(), attributes.next()) else { return Err(wrong) };
    let mut values = attribute.values.iter();
    let (Some(value), None) = (values.next(), values.next()) else { return Err(wrong) };
    let list = ExtensionReq::from_der(&x509::encode(value)).map_err(|_| wrong)?;
    let extensions = x509::Extensions::new(&list.0, &[(oid::DH_PUBLIC, false)])?;
    let key = extensions.octets(oid::DH_PUBLIC, "X25519 key")?;
    // A key of small order agrees on the same secret with everybody.
    let probe = StaticSecret::from([0x42; 32]).diffie_hellman(&PublicKey::from(key));
    if probe.was_contributory() { Ok(key) } else { Err(wrong) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::NodeKeys;
    use crate::rng::Rng;
    use proptest::prelude::*;

    fn keys() -> NodeKeys {
        NodeKeys::generate(&mut Rng::new([3; 32]))
    }

    #[test]
    fn a_request_reads_back_from_der_and_pem() {
        let request = keys().request();
        assert!(request.der().len() < 220, "{} bytes", request.der().len());
        assert_eq!(Request::parse(request.der()), Ok(request.clone()));
        assert_eq!(Request::from_pem(&request.to_pem()), Ok(request.clone()));
        assert_eq!((request.public_key(), request.dh_public()), (keys().public_key(), keys().dh_public()));
    }

    #[test]
    fn a_request_for_a_key_that_the_sender_does_not_hold_is_refused() {
        let own = keys().request();
        let other = NodeKeys::generate(&mut Rng::new([4; 32])).public_key();
        let at = own.der().windows(32).position(|window| window == own.public_key()).unwrap();
        let mut stolen = own.der().to_vec();
        stolen[at..at + 32].copy_from_slice(&other);
        assert_eq!(Request::parse(&stolen), Err(CertificateError::BadSignature));
    }

    #[test]
    fn a_request_with_an_x25519_key_of_small_order_is_refused() {
        for byte in [0, 1] {
            let mut low = [0; 32];
            low[0] = byte;
            assert_eq!(Request::parse(Request::create(&[3; 32], &low).der()), Err(BadProfile("X25519 key")));
        }
    }

    #[test]
    fn a_request_of_another_tool_without_an_x25519_key_is_refused() {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let request = rcgen::CertificateParams::new(vec!["db1".to_owned()]).unwrap().serialize_request(&key).unwrap();
        assert_eq!(Request::parse(request.der()), Err(BadProfile("X25519 key")));
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let request = rcgen::CertificateParams::new(vec![]).unwrap().serialize_request(&key).unwrap();
        assert_eq!(Request::parse(request.der()), Err(BadProfile("signature algorithm")));
    }

    #[test]
    fn a_longer_request_or_one_with_trailing_bytes_is_refused() {
        let mut der = keys().request().der().to_vec();
        der.push(0);
        assert!(matches!(Request::parse(&der), Err(CertificateError::Malformed(_))));
        assert!(matches!(Request::parse(&vec![0x30; MAX_REQUEST_LEN + 1]), Err(CertificateError::Malformed(_))));
    }

    #[test]
    fn a_request_with_any_byte_changed_is_refused() {
        let der = keys().request().der().to_vec();
        for at in 0..der.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut changed = der.clone();
                changed[at] ^= flip;
                assert!(Request::parse(&changed).is_err(), "byte {at} ^ {flip:#x}");
            }
        }
    }

    proptest! {
        #[test]
        fn random_bytes_are_no_request(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(Request::parse(&bytes).is_err());
        }
    }
}
