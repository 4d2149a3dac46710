//! The real `peft` library beside the program, if scripts/fetch-peft has put it there.

use std::process::Command;

use crate::util::{Ended, repository, skip};

#[test]
fn the_real_peft_reads_what_we_write_and_computes_the_same() {
    let check = Command::new(repository("scripts/peft-check")).arg(env!("CARGO_BIN_EXE_metastable")).output();
    let Ok(check) = check else { return skip("scripts/peft-check needs python3") };
    let ended = Ended::from(check);
    match ended.code {
        Some(77) => skip("the real peft is not installed; scripts/fetch-peft installs it"),
        _ => assert_eq!(ended.code, Some(0), "{ended:?}"),
    }
    assert!(ended.code == Some(77) || ended.stdout.trim_end().ends_with("all equal"), "{ended:?}");
}
