use super::*;

#[test]
fn long_links_are_drawn_evenly_over_the_octaves() {
    let mut rng = Rng::new([4; 32]);
    let (size, draws) = (1024u64, 20_000);
    let mut octaves = [0u32; 9];
    for _ in 0..draws {
        let distance = harmonic(size, &mut rng);
        assert!(distance >= u64::MAX / size && distance < 1 << 63);
        octaves[(distance.leading_zeros() - 1) as usize] += 1;
    }
    for (octave, &count) in octaves.iter().enumerate() {
        assert!((1950..2500).contains(&count), "octave {octave}: {octaves:?}");
    }
    // Within an octave density falls as 1/x: log2(1.5) = 58.5 % of it lie below one and a half times its beginning.
    let lower = (0..draws).map(|_| harmonic(size, &mut rng)).map(|distance| distance << distance.leading_zeros());
    let lower = lower.filter(|mantissa| mantissa >> 62 == 2).count();
    assert!((11_400..12_000).contains(&lower), "{lower} of {draws}");
}
