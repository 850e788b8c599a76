//! stub
use crate::args::UpArgs;
use crate::exit::Exit;
use crate::failure::Failure;
pub async fn perform(_args: UpArgs) -> Result<Exit, Failure> {
    Err(Failure::new("no"))
}
