//! Addresses of crypto currencies.

use sha2::{Digest, Sha256};

use super::text::{Match, Text, alnum};
use super::{Recogniser, Trigger};

/// Bitcoin addresses with a valid checksum, and Ethereum ones.
pub const CRYPTO: Recogniser = Recogniser {
    entity: "crypto_address",
    about: "Bitcoin addresses with a valid checksum, Ethereum addresses",
    trigger: Trigger::Long,
    is_default: true,
    match_at,
};

const BYTES_MIN: usize = 26;
const BYTES_MAX: usize = 90;
const BASE58: &[u8] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
const BECH32: &[u8] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";
/// What the checksum of bech32 leaves, and that of its successor bech32m.
const BECH32_REMAINDERS: [u32; 2] = [1, 0x2BC8_30A3];

fn match_at(text: &Text<'_>, start: usize) -> Match {
    if text.follows(start, alnum) || !text.byte(start).is_some_and(|byte| b"013bBt".contains(&byte)) {
        return Match::No;
    }
    let end = text.run(start, alnum, BYTES_MAX + 1);
    if text.is_open(end) && end - start <= BYTES_MAX {
        return Match::More;
    }
    let word = text.bytes.get(start..end).unwrap_or_default();
    let valid = (BYTES_MIN..=BYTES_MAX).contains(&word.len())
        && (is_ethereum(word) || is_base58(word) || is_bech32(word));
    if valid { Match::Yes { end, score: 1.0 } } else { Match::No }
}

fn is_ethereum(word: &[u8]) -> bool {
    word.strip_prefix(b"0x").is_some_and(|hex| hex.len() == 40 && hex.iter().all(u8::is_ascii_hexdigit))
}

/// A version byte, 20 bytes and the first four of their double SHA-256.
fn is_base58(word: &[u8]) -> bool {
    if word.len() > 35 || !matches!(word.first(), Some(b'1' | b'3')) {
        return false;
    }
    let mut bytes = [0u8; 25];
    for letter in word {
        let Some(value) = BASE58.iter().position(|known| known == letter) else { return false };
        let mut carry = value as u32;
        for byte in bytes.iter_mut().rev() {
            carry += u32::from(*byte) * 58;
            *byte = (carry & 0xFF) as u8;
            carry >>= 8;
        }
        if carry != 0 {
            return false;
        }
    }
    let (payload, checksum) = bytes.split_at(21);
    Sha256::digest(Sha256::digest(payload)).starts_with(checksum)
}

fn is_bech32(word: &[u8]) -> bool {
    let lower = word.to_ascii_lowercase();
    let mixed = lower != word && word.to_ascii_uppercase() != word;
    let Some((prefix, data)) = [b"bc", b"tb"].into_iter().find_map(|prefix| {
        lower.strip_prefix(prefix).and_then(|rest| rest.strip_prefix(b"1")).map(|data| (prefix, data))
    }) else {
        return false;
    };
    let values: Option<Vec<u32>> =
        data.iter().map(|letter| BECH32.iter().position(|known| known == letter).map(|v| v as u32)).collect();
    let high = prefix.iter().map(|byte| u32::from(byte >> 5));
    let low = prefix.iter().map(|byte| u32::from(byte & 31));
    let Some(values) = values.filter(|_| !mixed) else { return false };
    let all = high.chain([0]).chain(low).chain(values);
    BECH32_REMAINDERS.contains(&all.fold(1, bech32_step))
}

/// One step of the BCH code of BIP 173.
fn bech32_step(rest: u32, value: u32) -> u32 {
    const GENERATORS: [u32; 5] = [0x3B6A_57B2, 0x2650_8E6D, 0x1EA1_19FA, 0x3D42_33DD, 0x2A14_62B3];
    let top = rest >> 25;
    let shifted = ((rest & 0x1FF_FFFF) << 5) ^ value;
    (0..5).filter(|bit| top >> bit & 1 == 1).fold(shifted, |rest, bit| rest ^ GENERATORS[bit as usize])
}
