"""What each memory is worth: perplexity on long documents, recall beyond the window, and cost against size.

python -m farfield.benchmarks.memories perplexity --books folder --documents other-folder
python -m farfield.benchmarks.memories recall
python -m farfield.benchmarks.memories cost
"""
