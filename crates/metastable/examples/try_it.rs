use metastable::simulate::*;
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let r = run(&SimulateRequest { config: args[1].clone().into(), overrides: args[3..].to_vec(), seed: None, output: args[2].clone().into(), existing: metastable::Existing::Overwrite }, &mut metastable::Unwatched);
    match r { Ok(r) => { for s in &r.summary { println!("{s}"); } println!("{:?}", r.clusters.centers); if let Some(t) = r.twin { println!("{:?} {:?}", t.departure_time, t.cascade); } }
      Err(e) => println!("ERR {e} {:?}", e.hint()) }
}
