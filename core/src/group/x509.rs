//! What all our X.509 structures have in common: strict decoding, and the building of names and extensions.

use core::ops::Range;

use const_oid::ObjectIdentifier;
use der::asn1::{Any, BitString, OctetString};
use der::{Decode, Encode, ErrorKind, Header, Reader, SliceReader, Tag};
use ed25519_dalek::SigningKey;
use sha2::{Digest, Sha256};
use spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};
use x509_cert::attr::AttributeTypeAndValue;
use x509_cert::builder::profile::BuilderProfile;
use x509_cert::builder::{Builder, CertificateBuilder};
use x509_cert::certificate::TbsCertificate;
use x509_cert::ext::Extension;
use x509_cert::name::{Name, RdnSequence, RelativeDistinguishedName};
use x509_cert::serial_number::SerialNumber;

use super::error::CertificateError;
use super::oid;
use super::signature::SIGNATURE_LEN;
use super::validity;
use crate::rng::Rng;
use crate::time::UnixTime;

/// Longest certificate in bytes: with it a handshake message stays within its parts (design section 5). The longest names and the most addresses fit.
pub const MAX_CERTIFICATE_LEN: usize = 900;
/// Longest serial number in bytes (RFC 5280 section 4.1.2.2).
pub const MAX_SERIAL_LEN: usize = 20;
/// Bytes of the identifier of a CA's key.
pub(super) const KEY_ID_LEN: usize = 8;

/// `basicConstraints` of a node: an empty SEQUENCE, no CA.
pub(super) const NODE_CONSTRAINTS: &[u8] = &[0x30, 0x00];
/// `basicConstraints` of a CA: `cA` true, `pathLenConstraint` 0.
pub(super) const CA_CONSTRAINTS: &[u8] = &[0x30, 0x06, 0x01, 0x01, 0xff, 0x02, 0x01, 0x00];
/// `keyUsage` of a node: digitalSignature.
pub(super) const NODE_USAGE: &[u8] = &[0x03, 0x02, 0x07, 0x80];
/// `keyUsage` of a CA: keyCertSign and cRLSign.
pub(super) const CA_USAGE: &[u8] = &[0x03, 0x02, 0x01, 0x06];

/// Decodes `der` as exactly one `T`, and makes sure that it is the only encoding of what was decoded.
///
/// Returns with it where the first element of the outer SEQUENCE, which is what is signed, stands in `der`.
pub(super) fn decode<'a, T>(der: &'a [u8], max_len: usize) -> Result<(T, Range<usize>), der::Error>
where
    T: Decode<'a, Error = der::Error> + Encode,
{
    if der.len() > max_len {
        return Err(ErrorKind::Overlength.into());
    }
    let value = decode_canonical(der)?;
    let mut reader = SliceReader::new(der)?;
    Header::decode(&mut reader)?;
    let start = usize::try_from(reader.position())?;
    let signed = reader.tlv_bytes()?;
    Ok((value, start..start + signed.len()))
}

/// Decodes `der` as exactly one `T` whose canonical encoding it is.
pub(super) fn decode_canonical<'a, T>(der: &'a [u8]) -> Result<T, der::Error>
where
    T: Decode<'a, Error = der::Error> + Encode,
{
    let value = T::from_der(der)?;
    if value.to_der()? == der { Ok(value) } else { Err(ErrorKind::Noncanonical { tag: Tag::Sequence }.into()) }
}

/// Whether the algorithm is Ed25519, without parameters (RFC 8410 section 3).
pub(super) fn is_ed25519(algorithm: &AlgorithmIdentifierOwned) -> bool {
    algorithm.oid == oid::ED25519 && algorithm.parameters.is_none()
}

/// The Ed25519 key in `info`.
pub(super) fn public_key(info: &SubjectPublicKeyInfoOwned) -> Option<[u8; 32]> {
    if !is_ed25519(&info.algorithm) {
        return None;
    }
    info.subject_public_key.as_bytes()?.try_into().ok()
}

/// The Ed25519 signature in `bits`.
pub(super) fn signature(bits: &BitString) -> Option<[u8; SIGNATURE_LEN]> {
    bits.as_bytes()?.try_into().ok()
}

/// What certificates of nodes and CAs have in common.
pub(super) struct Common {
    pub(super) serial: Box<[u8]>,
    pub(super) public_key: [u8; 32],
    pub(super) signature: [u8; SIGNATURE_LEN],
    pub(super) not_before: UnixTime,
    pub(super) not_after: UnixTime,
}

/// Checks version, algorithms, serial number, validity and the absence of what the profile does not know.
pub(super) fn common(certificate: &x509_cert::Certificate) -> Result<Common, CertificateError> {
    use CertificateError::BadProfile;
    let tbs = certificate.tbs_certificate();
    if tbs.version() != x509_cert::certificate::Version::V3 {
        return Err(BadProfile("version"));
    }
    if !is_ed25519(tbs.signature()) || !is_ed25519(certificate.signature_algorithm()) {
        return Err(BadProfile("signature algorithm"));
    }
    if tbs.issuer_unique_id().is_some() || tbs.subject_unique_id().is_some() {
        return Err(BadProfile("unique identifier"));
    }
    let serial = serial_number(tbs.serial_number().as_bytes()).ok_or(BadProfile("serial number"))?;
    let (not_before, not_after) = validity::decode(tbs.validity()).ok_or(BadProfile("validity"))?;
    Ok(Common {
        serial: serial.into(),
        public_key: public_key(tbs.subject_public_key_info()).ok_or(BadProfile("public key"))?,
        signature: signature(certificate.signature()).ok_or(BadProfile("signature"))?,
        not_before,
        not_after,
    })
}

/// The magnitude of a positive DER integer, without the zero byte that stands before a set top bit: revocation lists name
/// it so. `None` for zero, negative numbers and what is longer than RFC 5280 section 4.1.2.2 allows.
fn serial_number(integer: &[u8]) -> Option<&[u8]> {
    if integer.len() > MAX_SERIAL_LEN || *integer.first()? >= 0x80 {
        return None;
    }
    let magnitude = if integer[0] == 0 { &integer[1..] } else { integer };
    (magnitude.first()? != &0).then_some(magnitude)
}

/// The extensions of a certificate or request. None stands twice, and none that is critical is unknown.
pub(super) struct Extensions<'a>(&'a [Extension]);

impl<'a> Extensions<'a> {
    /// Checks `list`; `known` are the extensions of the profile, each with whether it is critical.
    pub(super) fn new(list: &'a [Extension], known: &[(ObjectIdentifier, bool)]) -> Result<Self, CertificateError> {
        for (i, extension) in list.iter().enumerate() {
            if list[..i].iter().any(|earlier| earlier.extn_id == extension.extn_id) {
                return Err(CertificateError::BadProfile("extension that stands twice"));
            }
            match known.iter().find(|(known, _)| *known == extension.extn_id) {
                None if extension.critical => return Err(CertificateError::BadProfile("unknown critical extension")),
                Some((_, critical)) if *critical != extension.critical => {
                    return Err(CertificateError::BadProfile("criticality of an extension"));
                }
                _ => {}
            }
        }
        Ok(Self(list))
    }

    /// The value of an extension.
    pub(super) fn find(&self, oid: ObjectIdentifier) -> Option<&'a [u8]> {
        self.0.iter().find(|extension| extension.extn_id == oid).map(|extension| extension.extn_value.as_bytes())
    }

    /// The value of an extension that is an OCTET STRING of `N` bytes.
    pub(super) fn octets<const N: usize>(&self, oid: ObjectIdentifier, what: &'static str) -> Result<[u8; N], CertificateError> {
        let value = self.find(oid).ok_or(CertificateError::BadProfile(what))?;
        octets(value).ok_or(CertificateError::BadProfile(what))
    }
}

/// The content of `der`, an OCTET STRING of exactly `N` (below 128) bytes.
fn octets<const N: usize>(der: &[u8]) -> Option<[u8; N]> {
    const { assert!(N < 128, "the length is encoded in one byte") };
    der.strip_prefix(&[0x04, N as u8])?.try_into().ok()
}

/// An extension; `value` is DER.
pub(super) fn extension(oid: ObjectIdentifier, critical: bool, value: impl Into<Vec<u8>>) -> Extension {
    let extn_value = OctetString::new(value.into()).expect("our extensions are short");
    Extension { extn_id: oid, critical, extn_value }
}

/// An extension whose value is an OCTET STRING.
pub(super) fn octets_extension(oid: ObjectIdentifier, octets: &[u8]) -> Extension {
    extension(oid, false, encode(&OctetString::new(octets).expect("our extensions are short")))
}

/// The DER of `value`.
pub(super) fn encode(value: &impl Encode) -> Vec<u8> {
    value.to_der().expect("what was built from checked parts has an encoding")
}

/// A name of these attributes, one per RDN, as UTF8String.
pub(super) fn name(attributes: &[(ObjectIdentifier, &str)]) -> Name {
    let mut sequence = RdnSequence::default();
    for (oid, text) in attributes {
        let value = Any::new(Tag::Utf8String, text.as_bytes()).expect("names are short");
        let mut rdn = RelativeDistinguishedName::default();
        rdn.insert(AttributeTypeAndValue { oid: *oid, value }).expect("the first attribute is unique");
        sequence.push(rdn);
    }
    Name::from_der(&encode(&sequence)).expect("an RDN sequence is a name")
}

/// The attributes of `name`, when it has exactly those of `oids`, in this order, one per RDN, as UTF8String.
pub(super) fn attributes<const N: usize>(name: &Name, oids: [ObjectIdentifier; N]) -> Option<[&str; N]> {
    let mut out = [""; N];
    if name.iter_rdn().count() != N {
        return None;
    }
    for ((rdn, oid), text) in name.iter_rdn().zip(oids).zip(&mut out) {
        let mut attributes = rdn.iter();
        let (attribute, None) = (attributes.next()?, attributes.next()) else { return None };
        if attribute.oid != oid || attribute.value.header().tag() != Tag::Utf8String {
            return None;
        }
        *text = core::str::from_utf8(attribute.value.value()).ok()?;
    }
    Some(out)
}

/// The identifier of a CA's key: the first 64 bits of SHA-256 of its 32 bytes.
pub(super) fn key_id(public_key: &[u8; 32]) -> [u8; KEY_ID_LEN] {
    let digest: [u8; 32] = Sha256::digest(public_key).into();
    let mut id = [0; KEY_ID_LEN];
    id.copy_from_slice(&digest[..KEY_ID_LEN]);
    id
}

/// The value of `authorityKeyIdentifier` that names a key: a SEQUENCE of nothing but `[0] keyIdentifier`.
pub(super) fn authority_key(id: &[u8; KEY_ID_LEN]) -> Vec<u8> {
    const LEN: u8 = KEY_ID_LEN as u8;
    [&[0x30, LEN + 2, 0x80, LEN], id.as_slice()].concat()
}

/// What goes into a certificate that we issue.
pub(super) struct Draft {
    pub(super) issuer: Name,
    pub(super) subject: Name,
    pub(super) extensions: Vec<Extension>,
}

impl BuilderProfile for Draft {
    fn get_issuer(&self, _: &Name) -> Name {
        self.issuer.clone()
    }

    fn get_subject(&self) -> Name {
        self.subject.clone()
    }

    fn build_extensions(
        &self,
        _: spki::SubjectPublicKeyInfoRef<'_>,
        _: spki::SubjectPublicKeyInfoRef<'_>,
        _: &TbsCertificate,
    ) -> x509_cert::builder::Result<Vec<Extension>> {
        Ok(self.extensions.clone())
    }
}

/// Signs the certificate of `public_key`. The serial number has 126 random bits and always 16 bytes.
pub(super) fn build(
    draft: Draft,
    public_key: &[u8; 32],
    not_before: UnixTime,
    not_after: UnixTime,
    signer: &SigningKey,
    rng: &mut Rng,
) -> Vec<u8> {
    let mut serial = rng.bytes::<16>();
    serial[0] = serial[0] & 0x7f | 0x40;
    let serial = SerialNumber::new(&serial).expect("16 bytes are within the limit of 20");
    let info = SubjectPublicKeyInfoOwned {
        algorithm: AlgorithmIdentifierOwned { oid: oid::ED25519, parameters: None },
        subject_public_key: BitString::from_bytes(public_key).expect("a key is short"),
    };
    let builder = CertificateBuilder::new(draft, serial, validity::encode(not_before, not_after), info).expect("the draft is complete");
    encode(&builder.build::<_, ed25519_dalek::Signature>(signer).expect("signing with a key at hand does not fail"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_number_is_named_without_its_sign_byte() {
        assert_eq!(serial_number(&[0x00, 0x80, 0x01]), Some(&[0x80, 0x01][..]));
        assert_eq!(serial_number(&[0x7f]), Some(&[0x7f][..]));
        for refused in [&[][..], &[0], &[0x80, 0x01], &[0, 0, 1], &[1; MAX_SERIAL_LEN + 1]] {
            assert_eq!(serial_number(refused), None, "{refused:02x?}");
        }
    }
}
