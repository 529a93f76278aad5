//! How a source's requests prove who sent them: where a key may stand, and in which form the sender signs.

use super::error::ConfigError;
use super::reader::Node;
use crate::receive::lookup::is_header_name;

/// Where a key may stand in a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyPlace {
    /// `Authorization: Bearer KEY`.
    Bearer,
    /// `Authorization: Basic …`, as the password.
    Basic,
    /// A header of this name, as its whole value.
    Header(String),
    /// The last part of the path.
    Path,
}

/// One form in which a sender signs a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signature {
    /// An HMAC over the body, in a header.
    Hmac {
        /// The hash function.
        hash: Hash,
        /// The header.
        header: String,
        /// What stands before the signature, such as `sha256=`.
        prefix: String,
        /// How the bytes are written.
        encoding: Encoding,
        /// What is signed.
        over: Over,
    },
    /// The secret itself, in a header.
    Token {
        /// The header.
        header: String,
    },
    /// Standard Webhooks: `webhook-id`, `webhook-timestamp`, `webhook-signature`.
    StandardWebhooks,
}

/// The hash function of an HMAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    /// SHA-256.
    Sha256,
    /// SHA-1: only for senders that can do nothing else.
    Sha1,
}

/// How the bytes of a signature are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Hexadecimal digits of either case.
    Hex,
    /// Base64 with padding.
    Base64,
}

/// What an HMAC is computed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// The body as it came.
    Body,
    /// What `unwrap` takes out of a form; the body where it is no form.
    Payload,
}

/// What `auth` says: key places, forms of signature, or both.
#[derive(Clone, Debug, Default)]
pub(crate) struct Auth {
    pub(crate) keys: Option<Vec<KeyPlace>>,
    pub(crate) signatures: Option<Vec<Signature>>,
}

/// The headers in which a key is looked for where a source says nothing.
pub const KEY_HEADERS: [&str; 2] = ["X-Api-Key", "X-Secret-Key"];

/// All ways in which a key can come in, except the path.
pub(crate) fn any_key() -> Vec<KeyPlace> {
    let headers = KEY_HEADERS.iter().map(|name| KeyPlace::Header((*name).to_owned()));
    [KeyPlace::Bearer, KeyPlace::Basic].into_iter().chain(headers).collect()
}

/// Reads `auth`. SHA-1 is allowed in presets only.
pub(crate) fn read_auth(node: &Node<'_>, is_preset: bool) -> Result<Auth, ConfigError> {
    let mut auth = Auth::default();
    for node in node.list() {
        let way = if node.is_table() { read_table(&node, is_preset)? } else { read_word(&node)? };
        match way {
            Way::Keys(keys) => auth.keys.get_or_insert_default().extend(keys),
            Way::Signature(signature) => auth.signatures.get_or_insert_default().push(signature),
        }
    }
    Ok(auth)
}

enum Way {
    Keys(Vec<KeyPlace>),
    Signature(Signature),
}

fn read_word(node: &Node<'_>) -> Result<Way, ConfigError> {
    let words = ["any", "bearer", "basic", "path", "standard-webhooks"];
    Ok(match node.text()? {
        "any" => Way::Keys(any_key()),
        "bearer" => Way::Keys(vec![KeyPlace::Bearer]),
        "basic" => Way::Keys(vec![KeyPlace::Basic]),
        "path" => Way::Keys(vec![KeyPlace::Path]),
        "standard-webhooks" => Way::Signature(Signature::StandardWebhooks),
        "header" => {
            return Err(node.error("nothing says which header", "write auth = { header = \"X-My-Key\" }"));
        }
        word => {
            let mut error = node.unknown_word(word, words);
            error.fix.push_str(", { header = \"NAME\" }, { token = \"NAME\" }, { hmac-sha256 = \"NAME\" }");
            return Err(error);
        }
    })
}

fn read_table(node: &Node<'_>, is_preset: bool) -> Result<Way, ConfigError> {
    let mut fields = node.table()?;
    let (header, token) = (fields.get("header"), fields.get("token"));
    let (sha256, sha1) = (fields.get("hmac-sha256"), fields.get("hmac-sha1"));
    let (encoding, prefix, over) = (fields.get("encoding"), fields.get("prefix"), fields.get("over"));
    fields.finish()?;
    let example =
        "write one of { header = \"X-My-Key\" }, { token = \"X-My-Token\" }, { hmac-sha256 = \"X-My-Signature\" }";
    let of_hmac = encoding.as_ref().or(prefix.as_ref()).or(over.as_ref());
    if let (None, None, Some(stray)) = (&sha256, &sha1, of_hmac) {
        return Err(stray.error("this goes with hmac-sha256 only", example));
    }
    let (hash, header_node) = match (header, token, sha256, sha1) {
        (Some(header), None, None, None) => return Ok(Way::Keys(vec![KeyPlace::Header(header_name(&header)?)])),
        (None, Some(token), None, None) => {
            return Ok(Way::Signature(Signature::Token { header: header_name(&token)? }));
        }
        (None, None, Some(header), None) => (Hash::Sha256, header),
        (None, None, None, Some(header)) if is_preset => (Hash::Sha1, header),
        (None, None, None, Some(header)) => {
            let fix = "use hmac-sha256; for Launchpad, which has nothing else, use preset = \"launchpad\"";
            return Err(header.error("SHA-1 is too weak", fix));
        }
        _ => return Err(node.error("this must name exactly one header", example)),
    };
    Ok(Way::Signature(Signature::Hmac {
        hash,
        header: header_name(&header_node)?,
        prefix: prefix.map(|node| node.text()).transpose()?.unwrap_or_default().to_owned(),
        encoding: encoding
            .map(|node| node.one_of(&[("hex", Encoding::Hex), ("base64", Encoding::Base64)]))
            .transpose()?
            .unwrap_or(Encoding::Hex),
        over: over
            .map(|node| node.one_of(&[("body", Over::Body), ("payload", Over::Payload)]))
            .transpose()?
            .unwrap_or(Over::Body),
    }))
}

fn header_name(node: &Node<'_>) -> Result<String, ConfigError> {
    let name = node.text()?;
    if is_header_name(name) {
        return Ok(name.to_owned());
    }
    Err(node.error("this is no name of a header", "write it like \"X-My-Key\", without a colon"))
}
