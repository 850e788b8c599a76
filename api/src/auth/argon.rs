//! Argon2id whose working memory goes back to the machine after each hash.
//!
//! The library allocates and frees it as any other memory, and the allocator of the C library keeps a freed block of
//! this size for the next one: 20 MB for a program that may sign in one person a day.

use argon2::password_hash::phc::{Output, ParamsString, PasswordHash, Salt};
use argon2::password_hash::{self, CustomizedPasswordHasher};
use argon2::{Algorithm, Argon2, Block, Params, Version};

/// The C library never keeps an allocation of this size (the largest threshold that it ever uses is 32 MiB). What is
/// not touched of it takes no memory.
const NEVER_KEPT_BYTES: usize = 33 * 1024 * 1024;

/// Verifies as well, by the parameters of the stored hash: through the blanket implementation of `PasswordVerifier`.
pub struct Frugal;

impl CustomizedPasswordHasher<PasswordHash> for Frugal {
    type Params = Params;

    fn hash_password_customized(
        &self,
        password: &[u8],
        salt: &[u8],
        algorithm: Option<&str>,
        version: Option<u32>,
        params: Params,
    ) -> password_hash::Result<PasswordHash> {
        let algorithm = algorithm
            .map(Algorithm::try_from)
            .transpose()?
            .unwrap_or_default();
        let version = version.map(Version::try_from).transpose()?.unwrap_or_default();
        let mut buffer = [0; Output::MAX_LENGTH];
        let out = buffer
            .get_mut(..params.output_len().unwrap_or(Params::DEFAULT_OUTPUT_LEN))
            .ok_or(password_hash::Error::OutputSize)?;
        let mut memory = memory(&params);
        Argon2::new(algorithm, version, params.clone()).hash_password_into_with_memory(
            password,
            salt,
            out,
            &mut memory[..],
        )?;
        Ok(PasswordHash {
            algorithm: algorithm.ident(),
            version: Some(version.into()),
            params: ParamsString::try_from(&params)?,
            salt: Some(Salt::new(salt)?),
            hash: Some(Output::new(out)?),
        })
    }
}

fn memory(params: &Params) -> Vec<Block> {
    let blocks = params.m_cost() as usize;
    let mut memory = Vec::with_capacity(blocks.max(NEVER_KEPT_BYTES / Block::SIZE));
    memory.resize(blocks, Block::default());
    memory
}

#[cfg(test)]
mod tests {
    use argon2::password_hash::{PasswordHasher, PasswordVerifier};

    use super::*;

    #[test]
    fn it_makes_and_opens_the_same_hashes_as_the_library() {
        let params = Params::new(64, 2, 1, None).unwrap();
        let library = Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone());
        let theirs: PasswordHash = library
            .hash_password_with_salt(b"a password", b"0123456789abcdef")
            .unwrap();
        let ours = Frugal
            .hash_password_customized(b"a password", b"0123456789abcdef", None, None, params)
            .unwrap();
        assert_eq!(theirs.to_string(), ours.to_string());
        assert!(Frugal.verify_password(b"a password", &theirs).is_ok());
        assert!(Frugal.verify_password(b"another", &theirs).is_err());
    }

    #[test]
    fn its_memory_is_gone_after_many_hashes() {
        let resident = || {
            let text = std::fs::read_to_string("/proc/self/statm").unwrap();
            text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4_096
        };
        let params = Params::new(19_456, 1, 1, None).unwrap();
        let before = resident();
        for _ in 0..3 {
            let salt = b"0123456789abcdef";
            let made = Frugal.hash_password_customized(b"a password", salt, None, None, params.clone());
            assert!(made.is_ok());
        }
        let more = resident().saturating_sub(before);
        assert!(more < 10_000_000, "{more} bytes were kept");
    }
}
