"""The words of model cards: what must be said about data, weights and the method; `card_template.md` has the rest."""

from dataclasses import dataclass

CLASSIFIER_USE = (
    "Sorting images of garments by the section that they are sold in ({labels}), as one sign among others, with "
    "the scores above a threshold that fits the cost of a mistake. It looks at one image of one garment."
)
CLASSIFIER_MISUSE = (
    "guessing the gender of a person, or anything else about a person. The labels are the shop's sections, not the "
    "people who wear the garments. Many of the photographs show people all the same, so the model can read the wearer "
    "where it should read the garment, and what it learned from models of one shop says nothing about anybody's "
    "gender. Images of people without regard to what is sold are outside of what was tested."
)
ABSTAINING = (
    "Where a wrong answer costs more than none: with `hf_contour` imported, `classify(image, abstain=True)` gives "
    '`[{{"label": None, "score": ...}}]` for an image whose best score lies below {threshold:.6g}, the '
    "`abstain_threshold` of `config.json`. It was chosen on held-out images, together with the temperature."
)
EXTRACTOR_USE = (
    "Contour features for another network, and contour maps of photographs. The maps need the single-channel layer, "
    "which this folder holds; `ContourExtractorModel.from_pretrained` leaves it behind."
)
EXTRACTOR_MISUSE = "cutting out objects exactly, or anything where a missed or a false contour does harm."

UNKNOWN = "[More Information Needed]"  # what the Hub's own template leaves to be filled in
SUMMARY = (
    "Sorts images of garments by the section that they are sold in: {labels}. Its contour extractor was trained on "
    "annotated edge maps and then frozen."
)
ANY_SUMMARY = "Sorts images into {labels}. Its contour extractor is frozen."
ANY_LICENSE = (
    "Weights: see the header; the licences of the data, of the extractor and of the backbone's first weights hold too."
)

LEFT_OUT = (
    "**In a shop that was not in the training**: balanced accuracy of classifiers of this kind on each of five shops, "
    "trained on the other four (Lite0 at 224x168 where there is a backbone; temperature and threshold from the four):"
)
TRAINED_ON = "**In the shops that this model was trained on**, test splits:"
PATENT = (
    "The method stands in CN113298092B, an active patent in China. The licences here are about copyright and grant "
    "no right to that patent."
)
RESEARCH_ONLY = "Weights: for non-commercial research and education only, since BSDS500 was made available for that."
FREE_WEIGHTS = "Weights: Apache-2.0."
GENERAL_LIMIT = (
    "Scores hold for images like those of the split that they were measured on; expect lower ones on other kinds of "
    "images, other shops, times and places."
)
CLASSIFIER_LIMIT = "Images are brought to a small size before they are read; details below it are lost."
GARMENTS_ONLY_LIMIT = (
    "On the {num_samples} images of {data} with hardly any skin ({name}: garments alone, or on a cropped body), "
    "accuracy was {part}, against {whole} on all. This is the figure to expect where no wearer helps."
)
EXTRACTOR_LIMIT = (
    "Contours are drawn where people would draw them; texture and shadows are mistaken for them at times."
)


@dataclass(frozen=True)
class DataSource:
    """What a card says about a data set that a model was trained on.

    Attributes:
        title: its name.
        teaches: what a model learns from it.
        statement: where it comes from, in a sentence or two.
        license: of the data, as far as it is known.
        research_only: whether that limits the weights to research and education.
        limits: what a user of the model should know about the data.
        citation: BibTeX, or empty.
    """

    title: str
    teaches: str
    statement: str
    license: str
    research_only: bool
    limits: tuple[str, ...]
    citation: str = ""


DATA_SOURCES = {
    "bsds500": DataSource(
        title="BSDS500",
        teaches="contours",
        statement="Berkeley Segmentation Data Set, photographs with contours drawn by several people each.",
        license='none given; its page allows downloads "for non-commercial research and educational purposes".',
        research_only=True,
        limits=("Contours were learnt from natural photographs (animals, landscapes, people), not from garments.",),
        citation="""@article{arbelaez2011contour,
  author  = {Arbelaez, Pablo and Maire, Michael and Fowlkes, Charless and Malik, Jitendra},
  title   = {Contour Detection and Hierarchical Image Segmentation},
  journal = {IEEE Transactions on Pattern Analysis and Machine Intelligence},
  volume  = {33},
  number  = {5},
  pages   = {898--916},
  year    = {2011}
}""",
    ),
    "clothing_contours": DataSource(
        title="Clothing Co-Parsing, as contours",
        teaches="contours",
        statement=(
            "Street-fashion photographs whose clothing was labelled pixel by pixel (Yang, Luo and Lin, CVPR 2014); "
            "the contours are the borders between the labels."
        ),
        license="Apache-2.0 for the labels; the photographs belong to their makers, and none is in this folder.",
        research_only=True,
        limits=("The labelled borders are 1 to 3 pixels off, and folds, seams and pockets are not among them.",),
        citation="""@inproceedings{yang2014clothing,
  author    = {Yang, Wei and Luo, Ping and Lin, Liang},
  title     = {Clothing Co-Parsing by Joint Image Segmentation and Labeling},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition},
  year      = {2014}
}""",
    ),
    "myntra_gender": DataSource(
        title="Fashion Product Images (Small)",
        teaches="classes",
        statement=(
            "Product photographs and catalogue fields of the Indian shop Myntra, published by Param Aggarwal on "
            "Kaggle (`paramaggarwal/fashion-product-images-small`); the label is the catalogue's section."
        ),
        license=(
            "reported to be MIT (a second-hand statement, the original page was not seen). The photographs were made "
            "for Myntra and its brands and many show people; none is in this folder."
        ),
        research_only=False,
        limits=(
            "Most topwear in the training photographs is worn by a person, so the model may read the person and not "
            "the garment.",
            "The photographs are of an Indian catalogue of 2008 to 2018; brands and dress are specific to it.",
            "Some kinds of garment (sarees, dresses, trunks) occur in one section only.",
            "The labels are the shop's and not free of mistakes; a garment of any other section gets one of the "
            "labels of this model all the same.",
        ),
    ),
    "shops": DataSource(
        title="Photographs of four shops",
        teaches="classes",
        statement=(
            "Garment photographs of H&M (laid flat), John Henry and Freelancer (worn), an importer called sinotrade "
            "(men's mostly alone, women's mostly worn) and Luma, the demonstration shop of Magento 2 (worn); the "
            "label is the shop's section, split by product so that none lies in two splits."
        ),
        license=(
            "Luma: OSL 3.0 and AFL 3.0; the others none that their holders gave. The photographs belong to the firms "
            "and many show people; none is in this folder."
        ),
        research_only=True,
        limits=(
            "On a shop that was not trained on, expect clearly less than the table says, least of all from garments "
            "laid flat: calibrate on images of your own, and measure.",
            "In sinotrade the way of showing gives the section away; read its two rows apart.",
        ),
    ),
    "embedded": DataSource(
        title="Drawn garments",
        teaches="contours and classes",
        statement="Outlines of garments drawn by `hf_contour.data.garments.drawing`, with exact contours.",
        license="Apache-2.0, like the code.",
        research_only=False,
        limits=("The garments are drawings: the scores say that the program runs, not how it does on photographs.",),
    ),
}
