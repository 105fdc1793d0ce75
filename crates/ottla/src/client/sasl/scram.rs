//! SCRAM-SHA-256 and -512 (RFC 5802, RFC 7677), the client's side, without channel binding.

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256, Sha512};
use zeroize::Zeroizing;

use super::SaslAction;
use crate::config::secret::Secret;
use crate::config::security::ScramHash;

/// Rounds of PBKDF2 below which a password is not safe, as Kafka has it.
const MIN_ITERATIONS: u32 = 4096;
/// Rounds above which the reckoning alone would hold the producer up; Kafka's brokers allow 16384.
const MAX_ITERATIONS: u32 = 32_768;

/// An exchange on its way.
pub(crate) struct ScramClient {
    hash: ScramHash,
    password: Secret,
    client_nonce: String,
    client_first_message_bare: String,
    /// What the broker must prove to know; set once the proof of ours is out.
    expected_server_signature: Option<Vec<u8>>,
}

impl ScramClient {
    /// The exchange, and the first message.
    pub(super) fn begin(
        hash: ScramHash,
        user: &str,
        password: Secret,
        token_auth: bool,
        entropy: &[u8],
    ) -> (ScramClient, Zeroizing<Vec<u8>>) {
        let nonce = BASE64_URL_SAFE_NO_PAD.encode(entropy);
        let user = user.replace('=', "=3D").replace(',', "=2C");
        let extension = if token_auth { ",tokenauth=true" } else { "" };
        let first_bare = format!("n={user},r={nonce}{extension}");
        let first = Zeroizing::new(format!("n,,{first_bare}").into_bytes());
        (
            ScramClient {
                hash,
                password,
                client_nonce: nonce,
                client_first_message_bare: first_bare,
                expected_server_signature: None,
            },
            first,
        )
    }

    pub(super) fn evaluate_challenge(&mut self, said: &[u8]) -> Result<SaslAction, String> {
        let said = std::str::from_utf8(said)
            .map_err(|_| "what it answers is not SCRAM: it is no text".to_owned())?;
        if let Some(e) = find_attribute(said, 'e') {
            return Err(format!("it refused: {e}"));
        }
        match self.expected_server_signature.take() {
            None => self.handle_server_first_message(said),
            Some(expected) => {
                let shown = find_attribute(said, 'v').and_then(|v| BASE64_STANDARD.decode(v).ok());
                // Compared without telling where they differ.
                let same = shown.is_some_and(|v| {
                    v.len() == expected.len()
                        && v.iter().zip(&expected).fold(0, |d, (a, b)| d | (a ^ b)) == 0
                });
                if same {
                    return Ok(SaslAction::Complete);
                }
                Err("it could not show that it knows the password itself: this is not the broker it \
                     claims to be"
                    .to_owned())
            }
        }
    }

    /// The broker's salt and rounds are here: the proof, and what is to be heard in return.
    fn handle_server_first_message(&mut self, said: &str) -> Result<SaslAction, String> {
        let missing = |what: &str| format!("what it answers is not SCRAM: it has no {what}");
        let nonce = find_attribute(said, 'r').ok_or_else(|| missing("nonce"))?;
        if !nonce.starts_with(&self.client_nonce) || nonce.len() == self.client_nonce.len() {
            return Err("its nonce does not go on from ours: somebody else's answer".to_owned());
        }
        let salt = find_attribute(said, 's').and_then(|s| BASE64_STANDARD.decode(s).ok());
        let salt = salt.filter(|s| !s.is_empty()).ok_or_else(|| missing("salt"))?;
        let rounds = find_attribute(said, 'i').and_then(|i| i.parse::<u32>().ok());
        let rounds = rounds.ok_or_else(|| missing("number of rounds"))?;
        if !(MIN_ITERATIONS..=MAX_ITERATIONS).contains(&rounds) {
            return Err(format!(
                "it asks for {rounds} rounds, where {MIN_ITERATIONS} to {MAX_ITERATIONS} are sound"
            ));
        }
        let last = format!("c=biws,r={nonce}");
        let all = format!("{},{said},{last}", self.client_first_message_bare);
        let password = self.password.reveal().as_bytes();
        let (proof, expected) = match self.hash {
            ScramHash::Sha256 => {
                let mut salted = Zeroizing::new([0; 32]);
                pbkdf2::pbkdf2_hmac::<Sha256>(password, &salt, rounds, &mut *salted);
                let client = hmac_sha256(&*salted, b"Client Key");
                let stored = Sha256::digest(&*client);
                let signature = hmac_sha256(&stored, all.as_bytes());
                let server = hmac_sha256(&*salted, b"Server Key");
                (xor(&client, &signature), hmac_sha256(&server, all.as_bytes()).to_vec())
            }
            ScramHash::Sha512 => {
                let mut salted = Zeroizing::new([0; 64]);
                pbkdf2::pbkdf2_hmac::<Sha512>(password, &salt, rounds, &mut *salted);
                let client = hmac_sha512(&*salted, b"Client Key");
                let stored = Sha512::digest(&*client);
                let signature = hmac_sha512(&stored, all.as_bytes());
                let server = hmac_sha512(&*salted, b"Server Key");
                (xor(&client, &signature), hmac_sha512(&server, all.as_bytes()).to_vec())
            }
        };
        self.expected_server_signature = Some(expected);
        let message = format!("{last},p={}", BASE64_STANDARD.encode(&*proof));
        Ok(SaslAction::Send(Zeroizing::new(message.into_bytes())))
    }
}

fn hmac_sha256(key: &[u8], text: &[u8]) -> Zeroizing<Vec<u8>> {
    // A key of any length will do.
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes any key");
    mac.update(text);
    Zeroizing::new(mac.finalize().into_bytes().to_vec())
}

fn hmac_sha512(key: &[u8], text: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut mac = Hmac::<Sha512>::new_from_slice(key).expect("HMAC takes any key");
    mac.update(text);
    Zeroizing::new(mac.finalize().into_bytes().to_vec())
}

fn xor(a: &[u8], b: &[u8]) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(a.iter().zip(b).map(|(a, b)| a ^ b).collect())
}

fn find_attribute(text: &str, name: char) -> Option<&str> {
    text.split(',').find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7677, 3: the nonce given, the proof as printed there.
    #[test]
    fn the_rfcs_own_exchange() {
        let password = Secret::new("pencil");
        let (mut s, _) = ScramClient::begin(ScramHash::Sha256, "user", password, false, b"");
        s.client_nonce = "rOprNGfwEbeRWgbNEkqO".to_owned();
        s.client_first_message_bare = format!("n=user,r={}", s.client_nonce);
        let said = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let SaslAction::Send(last) = s.evaluate_challenge(said.as_bytes()).unwrap() else {
            panic!()
        };
        let last = String::from_utf8(last.to_vec()).unwrap();
        assert_eq!(
            last,
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
             p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        let end = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";
        assert_eq!(s.evaluate_challenge(end.as_bytes()).unwrap(), SaslAction::Complete);
    }

    #[test]
    fn sa3_a_name_with_signs_is_escaped() {
        let (_, first) =
            ScramClient::begin(ScramHash::Sha512, "a=b,c", Secret::new("p"), true, b"x");
        let first = String::from_utf8(first.to_vec()).unwrap();
        assert!(first.starts_with("n,,n=a=3Db=2Cc,r="), "{first}");
        assert!(first.ends_with(",tokenauth=true"));
    }

    #[test]
    fn a_broker_that_is_none_is_found_out() {
        let begin =
            || ScramClient::begin(ScramHash::Sha256, "u", Secret::new("hunter2"), false, b"abc").0;
        let nonce = begin().client_nonce;
        for (said, why) in [
            ("r=other,s=YQ==,i=4096".to_owned(), "nonce"),
            (format!("r={nonce},s=YQ==,i=4096"), "nonce"),
            (format!("r={nonce}x,s=YQ==,i=4095"), "rounds"),
            (format!("r={nonce}x,s=YQ==,i=4294967295"), "rounds"),
            (format!("r={nonce}x,s=YQ==,i=9999999999"), "rounds"),
            (format!("r={nonce}x,i=4096"), "salt"),
            (format!("r={nonce}x,s=%,i=4096"), "salt"),
            ("e=unknown-user".to_owned(), "unknown-user"),
            (String::new(), "nonce"),
        ] {
            let e = begin().evaluate_challenge(said.as_bytes()).unwrap_err();
            assert!(e.contains(why) && !e.contains("hunter2"), "{said}: {e}");
        }
        let mut s = begin();
        s.evaluate_challenge(format!("r={nonce}x,s=YQ==,i=4096").as_bytes()).unwrap();
        assert!(s.evaluate_challenge(b"v=AAAA").unwrap_err().contains("not the broker"));
        assert!(begin().evaluate_challenge(&[0xff]).is_err());
    }
}
