//! Results do not depend on the number of threads, to the bit.

use crate::util::World;

#[test]
fn one_thread_and_two_give_the_same_bytes_in_every_file() {
    let world = World::new();
    let small = "tokens = {law = \"uniform\", n = 20, d = 2}\ntime = {end = 6.0, save = 13}\n\
                 space.coordinates = \"rescaled\"\nlora = {target = \"value\", delta = [[0.0, 0.0], [0.0, -0.1]]}\n";
    // Enough tokens for the parallel path; a short time, for that is what costs.
    let large = "tokens = {law = \"gaussian\", n = 600, d = 3}\ntime = {end = 0.5, save = 3, rtol = 1e-6, atol = 1e-8}\n\
                 head = [{value = [[1.0, 0.2, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, -0.3]]}, {query = 0.5, output = -0.2}]\n\
                 lora = {target = [\"query\", \"value\"], a = [[0.1, 0.0, 0.3]], b = [[0.2], [0.0], [0.1]]}\n";
    for (name, config) in [("small", small), ("large", large)] {
        let config = world.write(&format!("{name}.toml"), config);
        let [one, two] = ["1", "2"].map(|threads| {
            let folder = format!("{name}-{threads}");
            world.succeed(&["simulate", config.to_str().unwrap(), "-o", &folder, "--threads", threads]);
            folder
        });
        world.assert_same(&one, &two);
    }
}
