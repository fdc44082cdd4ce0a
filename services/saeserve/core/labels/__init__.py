"""Labels of features from tokens alone, each with its precision and recall on text that it was not
made from: no language model and no judge is asked."""
