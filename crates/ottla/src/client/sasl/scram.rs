//! The client side of SCRAM-SHA-256 and SCRAM-SHA-512 (RFC 5802, RFC 7677), without channel
//! binding. [`SaslClient`](super::SaslClient) drives it.

use std::sync::Arc;

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256, Sha512};
use zeroize::Zeroizing;

use super::SaslAction;
use crate::config::secret::Secret;
use crate::config::security::ScramHash;
use crate::sync::Mutex;

/// Smallest number of PBKDF2 iterations that the client accepts, as in Kafka. With fewer, the
/// password could be guessed from a recorded exchange.
const MIN_ITERATIONS: u32 = 4096;
/// Largest number of PBKDF2 iterations that the client accepts. A hostile broker could otherwise
/// keep the worker threads busy, which also read certificates and fetch tokens. Kafka's brokers
/// allow 16384.
const MAX_ITERATIONS: u32 = 32_768;

/// A SCRAM exchange in progress. The names are those of RFC 5802.
pub(crate) struct ScramClient {
    hash: ScramHash,
    password: Secret,
    client_nonce: String,
    client_first_message_bare: String,
    /// The signature by which the broker proves that it knows the password. Set once the client has
    /// sent its own proof.
    expected_server_signature: Option<Vec<u8>>,
    /// Set while a worker thread derives the keys from the password, which takes milliseconds.
    derivation: Option<Arc<Mutex<Option<DerivedMessages>>>>,
}

/// What a worker thread derives from the password.
struct DerivedMessages {
    client_final_message: Zeroizing<Vec<u8>>,
    server_signature: Vec<u8>,
}

impl ScramClient {
    /// Begins an exchange and returns the client-first-message. `entropy` becomes the nonce.
    pub(super) fn begin(
        hash: ScramHash,
        user: &str,
        password: Secret,
        token_auth: bool,
        entropy: &[u8],
    ) -> (ScramClient, Zeroizing<Vec<u8>>) {
        let client_nonce = BASE64_URL_SAFE_NO_PAD.encode(entropy);
        let user = user.replace('=', "=3D").replace(',', "=2C");
        let extension = if token_auth { ",tokenauth=true" } else { "" };
        let client_first_message_bare = format!("n={user},r={client_nonce}{extension}");
        let first = Zeroizing::new(format!("n,,{client_first_message_bare}").into_bytes());
        (
            ScramClient {
                hash,
                password,
                client_nonce,
                client_first_message_bare,
                expected_server_signature: None,
                derivation: None,
            },
            first,
        )
    }

    /// Handles a message of the broker, and returns what the client does next.
    ///
    /// # Errors
    /// The message is malformed, reports an error, or does not prove that the broker knows the
    /// password.
    pub(super) fn evaluate_challenge(&mut self, challenge: &[u8]) -> Result<SaslAction, String> {
        let message = std::str::from_utf8(challenge)
            .map_err(|_| "the broker's message is not SCRAM: it is not UTF-8".to_owned())?;
        if let Some(e) = find_attribute(message, 'e') {
            return Err(format!("the broker rejected the exchange: {e}"));
        }
        if self.derivation.is_some() {
            return Err("the broker sent a message before the client's proof".to_owned());
        }
        match self.expected_server_signature.take() {
            None => self.handle_server_first_message(message),
            Some(expected) => verify_server_final_message(message, &expected),
        }
    }

    /// Reads salt and iterations from the server-first-message. Returns the work that derives the
    /// client-final-message with the client's proof, and the signature that the broker must send in
    /// return.
    fn handle_server_first_message(&mut self, message: &str) -> Result<SaslAction, String> {
        let missing = |name: &str| format!("the broker's message is not SCRAM: it has no {name}");
        let nonce = find_attribute(message, 'r').ok_or_else(|| missing("nonce"))?;
        // The nonce ties the message to this exchange: a replayed one has a different prefix.
        if !nonce.starts_with(&self.client_nonce) || nonce.len() == self.client_nonce.len() {
            return Err("the broker's nonce does not extend the client's nonce; the message \
                        belongs to a different exchange"
                .to_owned());
        }
        let salt = find_attribute(message, 's').and_then(|s| BASE64_STANDARD.decode(s).ok());
        let salt = salt.filter(|s| !s.is_empty()).ok_or_else(|| missing("salt"))?;
        let iterations = find_attribute(message, 'i').and_then(|i| i.parse::<u32>().ok());
        let iterations = iterations.ok_or_else(|| missing("number of iterations"))?;
        if !(MIN_ITERATIONS..=MAX_ITERATIONS).contains(&iterations) {
            return Err(format!(
                "the broker wants {iterations} iterations; the client accepts {MIN_ITERATIONS} to \
                 {MAX_ITERATIONS}"
            ));
        }
        // "biws" is the base64 of "n,,": no channel binding.
        let final_without_proof = format!("c=biws,r={nonce}");
        let auth_message =
            format!("{},{message},{final_without_proof}", self.client_first_message_bare);
        let (hash, password) = (self.hash, self.password.clone());
        let derived = Arc::new(Mutex::new(None));
        self.derivation = Some(derived.clone());
        Ok(SaslAction::Compute(Box::new(move || {
            let password = password.reveal().as_bytes();
            let (proof, server_signature) =
                derive_proof(hash, password, &salt, iterations, auth_message.as_bytes());
            let last = format!("{final_without_proof},p={}", BASE64_STANDARD.encode(&*proof));
            let client_final_message = Zeroizing::new(last.into_bytes());
            *derived.lock() = Some(DerivedMessages { client_final_message, server_signature });
        })))
    }

    /// Returns the client-final-message once the work of [`SaslAction::Compute`] is done.
    pub(super) fn take_computed(&mut self) -> Option<Zeroizing<Vec<u8>>> {
        let derived = self.derivation.as_ref()?.lock().take()?;
        self.derivation = None;
        self.expected_server_signature = Some(derived.server_signature);
        Some(derived.client_final_message)
    }
}

/// Returns the client's proof and the broker's signature (RFC 5802, section 3).
fn derive_proof(
    hash: ScramHash,
    password: &[u8],
    salt: &[u8],
    iterations: u32,
    auth_message: &[u8],
) -> (Zeroizing<Vec<u8>>, Vec<u8>) {
    match hash {
        ScramHash::Sha256 => {
            let mut salted = Zeroizing::new([0; 32]);
            pbkdf2::pbkdf2_hmac::<Sha256>(password, salt, iterations, &mut *salted);
            let client_key = hmac_sha256(&*salted, b"Client Key");
            let stored_key = Sha256::digest(&*client_key);
            let signature = hmac_sha256(&stored_key, auth_message);
            let server_key = hmac_sha256(&*salted, b"Server Key");
            let expected = hmac_sha256(&server_key, auth_message);
            (xor(&client_key, &signature), expected.to_vec())
        }
        ScramHash::Sha512 => {
            let mut salted = Zeroizing::new([0; 64]);
            pbkdf2::pbkdf2_hmac::<Sha512>(password, salt, iterations, &mut *salted);
            let client_key = hmac_sha512(&*salted, b"Client Key");
            let stored_key = Sha512::digest(&*client_key);
            let signature = hmac_sha512(&stored_key, auth_message);
            let server_key = hmac_sha512(&*salted, b"Server Key");
            let expected = hmac_sha512(&server_key, auth_message);
            (xor(&client_key, &signature), expected.to_vec())
        }
    }
}

/// Checks the signature in the server-final-message. Without this check, a server that does not
/// know the password could pose as the broker.
fn verify_server_final_message(message: &str, expected: &[u8]) -> Result<SaslAction, String> {
    let signature = find_attribute(message, 'v').and_then(|v| BASE64_STANDARD.decode(v).ok());
    // The comparison reads all bytes, so its duration does not reveal the first difference.
    let is_equal = signature.is_some_and(|v| {
        v.len() == expected.len()
            && v.iter().zip(expected).fold(0, |diff, (a, b)| diff | (a ^ b)) == 0
    });
    if is_equal {
        return Ok(SaslAction::Complete);
    }
    Err("the broker's signature is wrong: the broker does not know the password, so it is not the \
         broker that it claims to be"
        .to_owned())
}

fn hmac_sha256(key: &[u8], text: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC accepts a key of any length");
    mac.update(text);
    Zeroizing::new(mac.finalize().into_bytes().to_vec())
}

fn hmac_sha512(key: &[u8], text: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut mac = Hmac::<Sha512>::new_from_slice(key).expect("HMAC accepts a key of any length");
    mac.update(text);
    Zeroizing::new(mac.finalize().into_bytes().to_vec())
}

fn xor(a: &[u8], b: &[u8]) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(a.iter().zip(b).map(|(a, b)| a ^ b).collect())
}

/// Returns the value of an attribute such as `r=…` in a comma-separated message.
fn find_attribute(text: &str, name: char) -> Option<&str> {
    text.split(',').find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7677, section 3.
    #[test]
    fn exchange_matches_the_example_of_rfc_7677() {
        let password = Secret::new("pencil");
        let (mut s, _) = ScramClient::begin(ScramHash::Sha256, "user", password, false, b"");
        s.client_nonce = "rOprNGfwEbeRWgbNEkqO".to_owned();
        s.client_first_message_bare = format!("n=user,r={}", s.client_nonce);
        let server_first = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                            s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let SaslAction::Compute(work) = s.evaluate_challenge(server_first.as_bytes()).unwrap()
        else {
            panic!()
        };
        assert!(s.take_computed().is_none(), "the work runs on a worker thread");
        work();
        let last = String::from_utf8(s.take_computed().unwrap().to_vec()).unwrap();
        assert_eq!(
            last,
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
             p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        let server_final = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";
        let action = s.evaluate_challenge(server_final.as_bytes()).unwrap();
        assert!(matches!(action, SaslAction::Complete));
    }

    // CASES: SA3.
    #[test]
    fn comma_and_equals_sign_in_user_name_are_escaped() {
        let (_, first) =
            ScramClient::begin(ScramHash::Sha512, "a=b,c", Secret::new("p"), true, b"x");
        let first = String::from_utf8(first.to_vec()).unwrap();
        assert!(first.starts_with("n,,n=a=3Db=2Cc,r="), "{first}");
        assert!(first.ends_with(",tokenauth=true"));
    }

    #[test]
    fn malformed_messages_and_a_wrong_server_signature_are_errors() {
        let begin =
            || ScramClient::begin(ScramHash::Sha256, "u", Secret::new("hunter2"), false, b"abc").0;
        let nonce = begin().client_nonce;
        for (message, expected) in [
            ("r=other,s=YQ==,i=4096".to_owned(), "nonce"),
            (format!("r={nonce},s=YQ==,i=4096"), "nonce"),
            (format!("r={nonce}x,s=YQ==,i=4095"), "iterations"),
            (format!("r={nonce}x,s=YQ==,i=4294967295"), "iterations"),
            (format!("r={nonce}x,s=YQ==,i=9999999999"), "iterations"),
            (format!("r={nonce}x,i=4096"), "salt"),
            (format!("r={nonce}x,s=%,i=4096"), "salt"),
            ("e=unknown-user".to_owned(), "unknown-user"),
            (String::new(), "nonce"),
        ] {
            let e = begin().evaluate_challenge(message.as_bytes()).unwrap_err();
            assert!(e.contains(expected) && !e.contains("hunter2"), "{message}: {e}");
        }
        let mut s = begin();
        let first = format!("r={nonce}x,s=YQ==,i=4096");
        let SaslAction::Compute(work) = s.evaluate_challenge(first.as_bytes()).unwrap() else {
            panic!()
        };
        assert!(s.evaluate_challenge(b"v=AAAA").is_err(), "the client has sent no proof yet");
        work();
        assert!(s.take_computed().is_some());
        assert!(s.evaluate_challenge(b"v=AAAA").unwrap_err().contains("not the broker"));
        assert!(begin().evaluate_challenge(&[0xff]).is_err());
    }
}
