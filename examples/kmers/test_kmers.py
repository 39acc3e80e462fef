from tfm_kmers import KmerTokenizer

from tfm.core.laws import check_tokenizer


def test_laws() -> None:
    items = ["", "ACGTACGTAC", "a gene: ACGTTT\n", "naïve 東京"]
    for k in (1, 3, 6):
        for ends in (False, True):
            check_tokenizer(KmerTokenizer(k, ends), items)


def test_a_codon_is_a_token() -> None:
    tokenizer = KmerTokenizer(3)
    assert tokenizer.tokens("ACGTT").tolist() == [256 + 0 * 16 + 1 * 4 + 2, ord("T"), ord("T")]
    assert tokenizer.vocab_size == 256 + 4**3 + 1
