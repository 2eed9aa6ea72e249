"""How well passages are found: public collections, SQuAD's questions over paragraphs, and what a query takes."""
