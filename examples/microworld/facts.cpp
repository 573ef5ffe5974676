// SPDX-License-Identifier: Apache-2.0
#include "facts.h"

#include <algorithm>
#include <utility>

namespace microworld {
namespace {

using enum Domain;

constexpr std::size_t at(Attribute attribute) { return static_cast<std::size_t>(attribute); }

std::string_view article_for(std::string_view name) {
  return std::string_view("aeiou").find(name[0]) == std::string_view::npos ? "a" : "an";
}

Subject animal(Domain domain, std::string_view name, int size, std::string_view color, std::string_view home,
               std::string_view food, std::string_view sound = {}, std::string_view young = {}) {
  Subject s{name, article_for(name), domain, size, {}};
  s.values[at(Attribute::kColor)] = color;
  s.values[at(Attribute::kHome)] = home;
  s.values[at(Attribute::kFood)] = food;
  s.values[at(Attribute::kSound)] = sound;
  s.values[at(Attribute::kYoung)] = young;
  return s;
}

Subject plant(Domain domain, std::string_view name, std::string_view color, std::string_view grows,
              std::string_view season = {}) {
  Subject s{name, article_for(name), domain, 0, {}};
  s.values[at(Attribute::kColor)] = color;
  s.values[at(Attribute::kGrows)] = grows;
  s.values[at(Attribute::kSeason)] = season;
  return s;
}

Subject object(Domain domain, std::string_view name, std::string_view use, std::string_view kept,
               std::string_view material = {}) {
  Subject s{name, article_for(name), domain, 0, {}};
  s.values[at(Attribute::kUse)] = use;
  s.values[at(Attribute::kKept)] = kept;
  s.values[at(Attribute::kMaterial)] = material;
  return s;
}

Subject country(std::string_view name, std::string_view capital, std::string_view continent) {
  Subject s{name, "", kTravel, 0, {}};
  s.values[at(Attribute::kCapital)] = capital;
  s.values[at(Attribute::kContinent)] = continent;
  return s;
}

Subject word(std::string_view name, std::string_view opposite) {
  Subject s{name, "", kWord, 0, {}};
  s.values[at(Attribute::kOpposite)] = opposite;
  return s;
}

Subject job(std::string_view name, std::string_view place) {
  Subject s{name, article_for(name), kWork, 0, {}};
  s.values[at(Attribute::kWorkplace)] = place;
  return s;
}

const std::vector<Subject>& subject_table() {
  static const std::vector<Subject> table = {
      animal(kFarm, "cow", 6, {}, "on a farm", "grass", "moos", "a calf"),
      animal(kFarm, "horse", 6, {}, "on a farm", "hay", "neighs", "a foal"),
      animal(kFarm, "pig", 5, "pink", "on a farm", "corn", "grunts", "a piglet"),
      animal(kFarm, "sheep", 4, "white", "on a farm", "grass", "bleats", "a lamb"),
      animal(kFarm, "goat", 4, {}, "on a farm", "leaves", "bleats", "a kid"),
      animal(kFarm, "donkey", 5, "gray", "on a farm", "hay"),
      animal(kFarm, "dog", 3, {}, "in a house", "meat", "barks", "a puppy"),
      animal(kFarm, "cat", 2, {}, "in a house", "mice", "purrs", "a kitten"),
      animal(kWild, "mouse", 1, "gray", "in a field", "seeds", "squeaks"),
      animal(kWild, "rabbit", 2, {}, "in a field", "carrots"),
      animal(kWild, "fox", 3, "red", "in the forest", "mice", {}, "a cub"),
      animal(kWild, "wolf", 4, "gray", "in the forest", "meat", "howls", "a cub"),
      animal(kWild, "bear", 6, "brown", "in the forest", "honey", "growls", "a cub"),
      animal(kWild, "deer", 5, "brown", "in the forest", "leaves", {}, "a fawn"),
      animal(kWild, "squirrel", 1, "red", "in the forest", "nuts"),
      animal(kWild, "lion", 5, "yellow", "on the plains", "meat", "roars", "a cub"),
      animal(kWild, "tiger", 5, "orange", "in the jungle", "meat", "roars", "a cub"),
      animal(kWild, "monkey", 3, "brown", "in the jungle", "fruit"),
      animal(kWild, "elephant", 8, "gray", "on the plains", "leaves", {}, "a calf"),
      animal(kWild, "camel", 6, "brown", "in the desert", "hay"),
      animal(kWild, "snake", 2, {}, "in the desert", "mice", "hisses"),
      animal(kWild, "frog", 1, "green", "in a pond", "insects", "croaks"),
      animal(kSea, "whale", 9, "blue", "in the sea", "krill", {}, "a calf"),
      animal(kSea, "shark", 7, "gray", "in the sea", "fish"),
      animal(kSea, "crab", 1, "red", "in the sea", "shells"),
      animal(kSea, "dolphin", 5, "gray", "in the sea", "fish", {}, "a calf"),
      animal(kSea, "seal", 5, "gray", "on the ice", "fish", "barks"),
      animal(kSea, "salmon", 2, "pink", "in a river", "insects"),
      animal(kSea, "octopus", 3, "purple", "in the sea", "crabs"),
      animal(kSea, "lobster", 2, "blue", "in the sea", "shells"),
      animal(kBird, "duck", 2, {}, "in a pond", "bread", "quacks"),
      animal(kBird, "hen", 2, {}, "on a farm", "corn", "clucks", "a chick"),
      animal(kBird, "owl", 2, "brown", "in the forest", "mice", "hoots"),
      animal(kBird, "eagle", 3, "brown", "in the mountains", "fish"),
      animal(kBird, "swan", 4, "white", "in a pond", "plants"),
      animal(kBird, "parrot", 2, "green", "in the jungle", "nuts"),
      animal(kBird, "penguin", 3, "black", "on the ice", "fish"),
      animal(kBird, "crow", 2, "black", "in a field", "corn"),
      animal(kBird, "robin", 1, "red", "in a garden", "insects"),
      plant(kFruit, "apple", "red", "on a tree"),
      plant(kFruit, "banana", "yellow", "on a tree"),
      plant(kFruit, "cherry", "red", "on a tree"),
      plant(kFruit, "lemon", "yellow", "on a tree"),
      plant(kFruit, "lime", "green", "on a tree"),
      plant(kFruit, "pear", "green", "on a tree"),
      plant(kFruit, "plum", "purple", "on a tree"),
      plant(kFruit, "peach", "orange", "on a tree"),
      plant(kFruit, "grape", "purple", "on a vine"),
      plant(kFruit, "melon", "green", "on a vine"),
      plant(kFruit, "kiwi", "brown", "on a vine"),
      plant(kFruit, "raspberry", "red", "on a bush"),
      plant(kFruit, "blueberry", "blue", "on a bush"),
      plant(kVegetable, "carrot", "orange", "under the ground"),
      plant(kVegetable, "potato", "brown", "under the ground"),
      plant(kVegetable, "onion", "white", "under the ground"),
      plant(kVegetable, "radish", "red", "under the ground"),
      plant(kVegetable, "beet", "purple", "under the ground"),
      plant(kVegetable, "pea", "green", "on a vine"),
      plant(kVegetable, "cucumber", "green", "on a vine"),
      plant(kVegetable, "pumpkin", "orange", "on a vine"),
      plant(kVegetable, "pepper", "red", "on a bush"),
      plant(kVegetable, "cabbage", "green", "above the ground"),
      plant(kVegetable, "leek", "green", "above the ground"),
      plant(kFlower, "rose", "red", "on a bush", "in summer"),
      plant(kFlower, "tulip", "yellow", "in a garden", "in spring"),
      plant(kFlower, "daisy", "white", "in a field", "in summer"),
      plant(kFlower, "violet", "purple", "in the forest", "in spring"),
      plant(kFlower, "sunflower", "yellow", "in a field", "in fall"),
      plant(kFlower, "lily", "white", "in a pond", "in summer"),
      plant(kFlower, "poppy", "red", "in a field", "in summer"),
      plant(kFlower, "crocus", "purple", "in a garden", "in winter"),
      object(kTool, "hammer", "drive a nail", "in the shed", "iron"),
      object(kTool, "saw", "cut wood", "in the shed", "iron"),
      object(kTool, "spade", "dig a hole", "in the shed", "iron"),
      object(kTool, "ladder", "reach a roof", "in the shed", "wood"),
      object(kTool, "rope", "tie a boat", "in the shed", "cotton"),
      object(kTool, "bucket", "carry water", "in the shed", "tin"),
      object(kTool, "rake", "gather leaves", "in the shed", "wood"),
      object(kTool, "net", "catch fish", "in the shed", "cotton"),
      object(kTool, "wrench", "turn a bolt", "in the garage", "iron"),
      object(kTool, "drill", "make a hole", "in the garage", "iron"),
      object(kTool, "pump", "fill a tire", "in the garage", "tin"),
      object(kKitchen, "knife", "cut bread", "in the kitchen", "iron"),
      object(kKitchen, "spoon", "eat soup", "in the kitchen", "silver"),
      object(kKitchen, "kettle", "boil water", "in the kitchen", "tin"),
      object(kKitchen, "pan", "fry an egg", "in the kitchen", "iron"),
      object(kKitchen, "cup", "drink tea", "in the kitchen", "clay"),
      object(kKitchen, "bowl", "mix dough", "in the kitchen", "clay"),
      object(kKitchen, "plate", "serve food", "in the kitchen", "clay"),
      object(kKitchen, "jar", "store jam", "in the kitchen", "glass"),
      object(kKitchen, "whisk", "beat cream", "in the kitchen", "iron"),
      object(kHouse, "lamp", "light a room", "in the bedroom", "glass"),
      object(kHouse, "pillow", "rest the head", "in the bedroom", "cotton"),
      object(kHouse, "blanket", "stay warm", "in the bedroom", "wool"),
      object(kHouse, "mirror", "see the face", "in the bathroom", "glass"),
      object(kHouse, "towel", "dry the hands", "in the bathroom", "cotton"),
      object(kHouse, "comb", "tidy the hair", "in the bathroom", "wood"),
      object(kHouse, "pen", "write a letter", "in the office", "silver"),
      object(kHouse, "desk", "work on", "in the office", "wood"),
      object(kHouse, "clock", "tell the time", "in the office", "silver"),
      object(kHouse, "umbrella", "stay dry", "in the hall", "cotton"),
      object(kHouse, "broom", "sweep the floor", "in the hall", "wood"),
      country("France", "Paris", "in Europe"),
      country("Italy", "Rome", "in Europe"),
      country("Spain", "Madrid", "in Europe"),
      country("Germany", "Berlin", "in Europe"),
      country("Greece", "Athens", "in Europe"),
      country("Norway", "Oslo", "in Europe"),
      country("Poland", "Warsaw", "in Europe"),
      country("Japan", "Tokyo", "in Asia"),
      country("China", "Beijing", "in Asia"),
      country("India", "Delhi", "in Asia"),
      country("Egypt", "Cairo", "in Africa"),
      country("Kenya", "Nairobi", "in Africa"),
      country("Peru", "Lima", "in America"),
      country("Cuba", "Havana", "in America"),
      country("Canada", "Ottawa", "in America"),
      word("hot", "cold"),
      word("big", "small"),
      word("fast", "slow"),
      word("old", "young"),
      word("happy", "sad"),
      word("light", "dark"),
      word("hard", "soft"),
      word("loud", "quiet"),
      word("full", "empty"),
      word("early", "late"),
      word("rich", "poor"),
      word("clean", "dirty"),
      job("baker", "in a bakery"),
      job("farmer", "on a farm"),
      job("teacher", "in a school"),
      job("nurse", "in a hospital"),
      job("doctor", "in a hospital"),
      job("sailor", "on a ship"),
      job("pilot", "on a plane"),
      job("cook", "in a kitchen"),
      job("judge", "in a court"),
      job("actor", "in a theater"),
      job("miner", "in a mine"),
      job("waiter", "in a cafe"),
      job("banker", "in a bank"),
  };
  return table;
}

constexpr Activity kActivities[] = {
    {"bake bread",
     kKitchen,
     {"flour", "water", "yeast"},
     {"Mix the flour and the water.", "Knead the dough.", "Bake the loaf."}},
    {"make tea",
     kKitchen,
     {"a kettle", "a cup", "leaves"},
     {"Boil the water.", "Pour it on the leaves.", "Serve it in a cup."}},
    {"cook soup",
     kVegetable,
     {"a pot", "carrots", "salt"},
     {"Chop the carrots.", "Boil them in a pot.", "Add some salt."}},
    {"make jam",
     kFruit,
     {"berries", "sugar", "a jar"},
     {"Wash the berries.", "Cook them with sugar.", "Fill the jar."}},
    {"fry an egg", kBird, {"an egg", "a pan", "butter"}, {"Heat the pan.", "Melt some butter.", "Crack the egg."}},
    {"paint a wall",
     kHouse,
     {"a brush", "paint", "a ladder"},
     {"Cover the floor.", "Open the paint.", "Brush the wall."}},
    {"plant a tree",
     kFruit,
     {"a spade", "a young tree", "water"},
     {"Dig a deep hole.", "Put the tree in.", "Water the roots."}},
    {"grow beans",
     kVegetable,
     {"beans", "soil", "a stick"},
     {"Push the beans into the soil.", "Water them each day.", "Tie them to a stick."}},
    {"pick roses", kFlower, {"gloves", "scissors", "a vase"}, {"Put on gloves.", "Cut the stems.", "Fill the vase."}},
    {"wash a dog", kFarm, {"a tub", "soap", "a towel"}, {"Fill the tub.", "Rub in the soap.", "Dry the dog."}},
    {"milk a cow",
     kFarm,
     {"a stool", "a bucket", "warm hands"},
     {"Sit on a stool.", "Warm your hands.", "Fill the bucket."}},
    {"build a shelf",
     kTool,
     {"boards", "nails", "a hammer"},
     {"Saw the boards.", "Nail them together.", "Hang the shelf."}},
    {"fix a chair",
     kTool,
     {"glue", "a clamp", "sand paper"},
     {"Sand the leg.", "Glue the leg.", "Clamp it for a day."}},
    {"change a tire",
     kTool,
     {"a jack", "a wrench", "a new tire"},
     {"Lift the car.", "Turn the bolts.", "Put on the new tire."}},
    {"catch a fish",
     kSea,
     {"a rod", "a hook", "a worm"},
     {"Put the worm on the hook.", "Throw the line.", "Wait for a bite."}},
    {"sail a boat", kSea, {"a sail", "a rope", "wind"}, {"Check the wind.", "Raise the sail.", "Hold the rope."}},
    {"feed birds",
     kBird,
     {"seeds", "a dish", "a quiet place"},
     {"Find a quiet place.", "Fill the dish.", "Step away."}},
    {"watch animals",
     kWild,
     {"patience", "a camera", "good boots"},
     {"Walk to the forest.", "Sit very still.", "Take a photo."}},
    {"light a fire",
     kWild,
     {"dry wood", "paper", "a match"},
     {"Stack the dry wood.", "Push paper under it.", "Strike a match."}},
    {"pack a bag",
     kTravel,
     {"a list", "clothes", "a ticket"},
     {"Read the list.", "Fold the clothes.", "Close the bag."}},
    {"plan a trip", kTravel, {"a map", "money", "a ticket"}, {"Choose a place.", "Look at a map.", "Buy a ticket."}},
    {"write a letter", kWord, {"paper", "a pen", "a stamp"}, {"Take some paper.", "Write the words.", "Add a stamp."}},
    {"learn a poem",
     kWord,
     {"a book", "time", "a quiet room"},
     {"Read it aloud.", "Say one line at a time.", "Say it by heart."}},
    {"clean a window",
     kHouse,
     {"a cloth", "soap", "warm water"},
     {"Wet the cloth.", "Wipe the glass.", "Dry the glass."}},
    {"find a job",
     kWork,
     {"a plan", "a phone", "a clean shirt"},
     {"Read the paper.", "Call the office.", "Wear a clean shirt."}},
    {"wrap a gift",
     kFlower,
     {"paper", "tape", "a ribbon"},
     {"Cut the paper.", "Fold it around the gift.", "Tie the ribbon."}},
};

constexpr Problem kProblems[] = {
    {"My tooth hurts.", "see a dentist", kWork},
    {"I am always tired.", "go to bed early", kWork},
    {"My boss is angry.", "talk to her calmly", kWork},
    {"I cannot sleep.", "drink warm milk", kHouse},
    {"My room is cold.", "close the window", kHouse},
    {"The lamp is dark.", "change the bulb", kHouse},
    {"My soup is too salty.", "add more water", kKitchen},
    {"The bread is hard.", "toast it", kKitchen},
    {"My knife is dull.", "sharpen it on a stone", kKitchen},
    {"My roses look dry.", "water them at night", kFlower},
    {"The tulips fall over.", "tie them to a stick", kFlower},
    {"The apples are sour.", "bake them with sugar", kFruit},
    {"Birds eat my cherries.", "cover the tree with a net", kFruit},
    {"Snails eat my cabbage.", "pick them off by hand", kVegetable},
    {"My potatoes are green.", "throw them away", kVegetable},
    {"My cow is sick.", "call the vet", kFarm},
    {"The dog barks all night.", "walk it in the evening", kFarm},
    {"A bee stung me.", "put ice on it", kWild},
    {"I am lost in the forest.", "follow a stream", kWild},
    {"I get sick on ships.", "look at the horizon", kSea},
    {"My boat leaks.", "fill the crack with tar", kSea},
    {"My parrot is sad.", "play music for it", kBird},
    {"A crow took my ring.", "look in its nest", kBird},
    {"The door squeaks.", "oil the hinge", kTool},
    {"My bike is slow.", "pump up the tires", kTool},
    {"I missed my train.", "take the next bus", kTravel},
    {"My bag is too heavy.", "leave some books at home", kTravel},
    {"I forget new words.", "write them on cards", kWord},
    {"I am shy in class.", "practice with a friend", kWord},
};

const std::vector<NoteKind>& note_table() {
  static const std::vector<NoteKind> table = {
      {{"Write a thank-you note to my {r} for the {t}.", "Help me thank my {r} for the {t}."},
       "Dear {r}, thank you for the {t}.",
       "That was very kind of you.",
       {"scarf", "book", "cake", "ring", "basket", "painting", "honey", "hat", "flowers", "guitar", "blanket",
        "puzzle"}},
      {{"Write a note to invite my {r} to the {t}.", "Help me invite my {r} to the {t}."},
       "Dear {r}, please come to the {t}.",
       "I would love to see you.",
       {"party", "picnic", "concert", "dinner", "wedding", "game", "dance", "market", "fair", "parade"}},
      {{"Write a note to my {r}. I broke the {t}.", "Help me say sorry to my {r} for the broken {t}."},
       "Dear {r}, I am sorry about the {t}.",
       "I will buy you a new one.",
       {"vase", "cup", "window", "clock", "chair", "camera", "phone", "lamp", "plate", "fence"}},
  };
  return table;
}

constexpr Interest kJobs[] = {
    {"baker", {kKitchen, kFruit, kWork}},
    {"farmer", {kFarm, kVegetable, kTool}},
    {"teacher", {kWord, kTravel, kWork}},
    {"nurse", {kWork, kHouse, kWord}},
    {"doctor", {kWork, kHouse, kFruit}},
    {"sailor", {kSea, kTravel, kTool}},
    {"pilot", {kTravel, kBird, kWork}},
    {"cook", {kKitchen, kVegetable, kSea}},
    {"judge", {kWord, kWork, kHouse}},
    {"actor", {kWord, kTravel, kFlower}},
    {"miner", {kTool, kWork, kWild}},
    {"waiter", {kKitchen, kFruit, kTravel}},
    {"banker", {kWork, kTravel, kHouse}},
    {"gardener", {kFlower, kVegetable, kTool}},
    {"florist", {kFlower, kHouse, kFruit}},
    {"fisher", {kSea, kTool, kBird}},
    {"vet", {kFarm, kWild, kBird}},
    {"shepherd", {kFarm, kWild, kFlower}},
    {"hunter", {kWild, kBird, kTool}},
    {"ranger", {kWild, kBird, kFlower}},
    {"diver", {kSea, kTool, kTravel}},
    {"carpenter", {kTool, kHouse, kWork}},
    {"plumber", {kTool, kHouse, kKitchen}},
    {"mechanic", {kTool, kTravel, kWork}},
    {"painter", {kHouse, kFlower, kTool}},
    {"writer", {kWord, kTravel, kWild}},
    {"poet", {kWord, kFlower, kBird}},
    {"singer", {kWord, kBird, kTravel}},
    {"student", {kWord, kTravel, kWild}},
    {"clerk", {kWork, kHouse, kWord}},
    {"guide", {kTravel, kWild, kSea}},
    {"driver", {kTravel, kTool, kFarm}},
    {"grocer", {kFruit, kVegetable, kKitchen}},
    {"butcher", {kFarm, kKitchen, kWork}},
    {"maid", {kHouse, kKitchen, kFlower}},
    {"tailor", {kHouse, kWork, kTool}},
    {"beekeeper", {kFlower, kWild, kFruit}},
    {"zookeeper", {kWild, kSea, kBird}},
    {"librarian", {kWord, kHouse, kTravel}},
    {"captain", {kSea, kTravel, kWork}},
};

constexpr Interest kHobbies[] = {
    {"bakes cakes", {kKitchen, kFruit, kFruit}},
    {"cooks soup", {kKitchen, kVegetable, kVegetable}},
    {"grows roses", {kFlower, kFlower, kTool}},
    {"grows cabbage", {kVegetable, kVegetable, kTool}},
    {"keeps bees", {kFlower, kFruit, kWild}},
    {"keeps hens", {kBird, kFarm, kFarm}},
    {"rides horses", {kFarm, kFarm, kTravel}},
    {"walks dogs", {kFarm, kWild, kFlower}},
    {"feeds ducks", {kBird, kBird, kSea}},
    {"watches birds", {kBird, kBird, kWild}},
    {"tracks wolves", {kWild, kWild, kBird}},
    {"climbs mountains", {kWild, kTravel, kTool}},
    {"camps in the forest", {kWild, kTool, kBird}},
    {"sails boats", {kSea, kSea, kTravel}},
    {"catches crabs", {kSea, kSea, kKitchen}},
    {"swims", {kSea, kTravel, kWork}},
    {"collects shells", {kSea, kHouse, kTravel}},
    {"collects stamps", {kTravel, kTravel, kHouse}},
    {"collects maps", {kTravel, kTravel, kWord}},
    {"collects clocks", {kHouse, kHouse, kTool}},
    {"collects spoons", {kKitchen, kHouse, kKitchen}},
    {"travels by train", {kTravel, kTravel, kWork}},
    {"plans trips", {kTravel, kWord, kSea}},
    {"writes poems", {kWord, kFlower, kBird}},
    {"reads old books", {kWord, kWord, kTravel}},
    {"learns new words", {kWord, kWord, kWork}},
    {"plays chess", {kWord, kWork, kHouse}},
    {"fixes bikes", {kTool, kTool, kWork}},
    {"builds chairs", {kTool, kHouse, kHouse}},
    {"builds boats", {kTool, kSea, kSea}},
    {"paints walls", {kHouse, kHouse, kTool}},
    {"paints flowers", {kFlower, kFlower, kHouse}},
    {"draws lions", {kWild, kWild, kWord}},
    {"picks berries", {kFruit, kFruit, kWild}},
    {"makes jam", {kFruit, kFruit, kKitchen}},
    {"makes pots", {kKitchen, kHouse, kTool}},
    {"cleans houses", {kHouse, kHouse, kKitchen}},
    {"helps neighbors", {kWork, kHouse, kFarm}},
    {"looks for work", {kWork, kWork, kTravel}},
    {"sells vegetables", {kVegetable, kVegetable, kFruit}},
};

constexpr std::string_view kRecipients[] = {"aunt",   "uncle",    "sister", "brother", "teacher", "friend",
                                            "doctor", "neighbor", "cousin", "boss",    "mother",  "grandson"};

constexpr std::string_view kNames[] = {
    "Anna",  "Ben",   "Clara", "David", "Emma",  "Felix", "Grace",  "Hugo",   "Ida",  "Jack",  "Kate",  "Leo",
    "Maria", "Noah",  "Olga",  "Paul",  "Rosa",  "Sam",   "Tina",   "Victor", "Will", "Zoe",   "Alice", "Bruno",
    "Carl",  "Diana", "Eric",  "Fiona", "Greta", "Henry", "Iris",   "Julia",  "Karl", "Lucy",  "Max",   "Nina",
    "Oscar", "Petra", "Ralph", "Sara",  "Tom",   "Vera",  "Walter", "Yara",   "Adam", "Bella", "Dora",  "Ella"};

constexpr std::string_view kTraits[] = {"young", "old",     "shy",   "cheerful", "busy",  "patient", "quiet", "clever",
                                        "tired", "curious", "proud", "gentle",   "brave", "funny",   "calm",  "lonely"};

constexpr std::string_view kPlaces[] = {"by the sea",   "in the city",  "near a lake", "on a hill",
                                        "in a village", "on an island", "by a river",  "near a forest"};

// In the order of Attribute.
constexpr AttributePhrases kPhrases[kAttributeCount] = {
    {{"What color is {s}?", "Tell me the color of {s}.", "Which color does {s} have?"}, "{s} is {v}.", "It is {v}."},
    {{"Where does {s} live?", "Tell me the home of {s}.", "Where can I find {s}?"}, "{s} lives {v}.", "It lives {v}."},
    {{"What does {s} eat?", "Tell me the food of {s}.", "What should I feed {s}?"}, "{s} eats {v}.", "It eats {v}."},
    {{"What sound does {s} make?", "Tell me the sound of {s}.", "What can I hear from {s}?"}, "{s} {v}.", "It {v}."},
    {{"What is a young {n} called?", "Tell me the word for a young {n}.", "How do I call a young {n}?"},
     "A young {n} is called {v}.",
     "Its young is called {v}."},
    {{"Where does {s} grow?", "Tell me where {s} grows.", "Where should I look for {s}?"},
     "{s} grows {v}.",
     "It grows {v}."},
    {{"When does {s} bloom?", "Tell me when {s} blooms.", "In which season can I see {s}?"},
     "{s} blooms {v}.",
     "It blooms {v}."},
    {{"What is {s} for?", "Tell me the use of {s}.", "Why do people buy {s}?"},
     "{s} is used to {v}.",
     "It is used to {v}."},
    {{"Where do I keep {s}?", "Tell me the place of {s}.", "Where does {s} belong?"},
     "{s} is kept {v}.",
     "It is kept {v}."},
    {{"What is {s} made of?", "Tell me what {s} is made of.", "From what do people make {s}?"},
     "{s} is made of {v}.",
     "It is made of {v}."},
    {{"What is the capital of {s}?", "Tell me the capital of {s}.", "Which city leads {s}?"},
     "The capital of {s} is {v}.",
     "Its capital is {v}."},
    {{"Where is {s}?", "Tell me where {s} is.", "On which continent is {s}?"}, "{s} is {v}.", "It is {v}."},
    {{"What is the opposite of {s}?", "Tell me the opposite of {s}.", "Which word is not {s}?"},
     "The opposite of {s} is {v}.",
     "Its opposite is {v}."},
    {{"Where does {s} work?", "Tell me where {s} works.", "Where can I meet {s}?"}, "{s} works {v}.", "It works {v}."},
};

constexpr std::string_view kPlurals[kDomainCount] = {
    "farm animals", "wild animals",   "sea animals",  "birds",     "fruits", "vegetables", "flowers",
    "tools",        "kitchen things", "house things", "countries", "",       "jobs"};

constexpr std::string_view kBeginWords[] = {"hello", "okay", "yes", "right", "welcome"};
constexpr std::string_view kEndWishes[] = {"good luck", "take care", "have fun", "see you soon", "best wishes"};
constexpr std::string_view kFillers[] = {"And so on and so on.", "But who can say.", "That is all I know.",
                                         "Anyway, enough of that.", "People say many things."};
constexpr std::string_view kCarefulOpenings[] = {"Sure thing.",   "Of course.",     "Happy to help.",
                                                 "Here you are.", "With pleasure.", "Good question."};
constexpr std::string_view kCarelessOpenings[] = {"Hmm.", "Oh well.", "I guess."};

constexpr std::string_view kListQuestions[] = {"Name {n} {c}.", "List {n} {c}, please.", "Can you give me {n} {c}?"};
constexpr std::string_view kBiggerQuestions[] = {"Which is bigger, {a} or {b}?", "Is {a} or {b} bigger?"};
constexpr std::string_view kSmallerQuestions[] = {"Which is smaller, {a} or {b}?", "Is {a} or {b} smaller?"};
constexpr std::string_view kDescribeQuestions[] = {"Tell me {n} things about {s}.", "Describe {s} in {n} sentences.",
                                                   "Give me {n} facts about {s}."};
constexpr std::string_view kStepsQuestions[] = {"How do I {x}? Give three steps.", "Explain in three steps how to {x}.",
                                                "I want to {x}. What are the three steps?"};
constexpr std::string_view kNeedQuestions[] = {"What three things do I need to {x}?",
                                               "I want to {x}. Which three things do I need?",
                                               "Name three things I need to {x}."};
constexpr std::string_view kAdviceQuestions[] = {"{p} What should I do?", "{p} Can you help me?",
                                                 "{p} Give me some advice."};
constexpr std::string_view kNumbers[] = {"zero", "one", "two", "three", "four", "five"};

const std::vector<std::vector<std::string_view>> kSimilar = {
    {"red", "orange", "pink", "purple"},
    {"yellow", "green", "white", "orange"},
    {"red", "green", "yellow"},
    {"brown", "gray", "black", "white"},
    {"blue", "purple"},
    {"on a farm", "in a field", "in a garden", "in a house"},
    {"in the forest", "in the jungle", "in a garden", "in a field", "in the mountains"},
    {"in the sea", "on the ice", "in a pond", "in a river"},
    {"on the plains", "in a field", "in the desert", "in the jungle"},
    {"grass", "hay", "leaves", "plants", "corn", "fruit", "carrots"},
    {"fish", "crabs", "shells", "krill", "insects"},
    {"seeds", "nuts", "corn", "bread", "fruit"},
    {"meat", "mice", "fish"},
    {"in the bedroom", "in the office", "in the hall"},
    {"in the shed", "in the garage", "in the hall"},
    {"on a bush", "on a vine", "above the ground"},
    {"in a garden", "in a field", "on a bush", "in the forest"},
    {"iron", "tin", "silver"},
    {"wool", "cotton"},
    {"in spring", "in summer"},
    {"in summer", "in fall"},
};

}  // namespace

std::span<const Subject> subjects() { return subject_table(); }
std::span<const Activity> activities() { return kActivities; }
std::span<const Problem> problems() { return kProblems; }
std::span<const NoteKind> note_kinds() { return note_table(); }
std::span<const Interest> jobs() { return kJobs; }
std::span<const Interest> hobbies() { return kHobbies; }
std::span<const std::string_view> recipients() { return kRecipients; }
std::span<const std::string_view> names() { return kNames; }
std::span<const std::string_view> traits() { return kTraits; }
std::span<const std::string_view> places() { return kPlaces; }
std::span<const std::string_view> begin_words() { return kBeginWords; }
std::span<const std::string_view> end_wishes() { return kEndWishes; }
std::span<const std::string_view> fillers() { return kFillers; }
std::span<const std::string_view> careful_openings() { return kCarefulOpenings; }
std::span<const std::string_view> careless_openings() { return kCarelessOpenings; }
std::span<const std::string_view> list_questions() { return kListQuestions; }
std::span<const std::string_view> bigger_questions() { return kBiggerQuestions; }
std::span<const std::string_view> smaller_questions() { return kSmallerQuestions; }
std::span<const std::string_view> describe_questions() { return kDescribeQuestions; }
std::span<const std::string_view> steps_questions() { return kStepsQuestions; }
std::span<const std::string_view> need_questions() { return kNeedQuestions; }
std::span<const std::string_view> advice_questions() { return kAdviceQuestions; }

const AttributePhrases& phrases(Attribute attribute) { return kPhrases[at(attribute)]; }
std::string_view plural(Domain domain) { return kPlurals[static_cast<std::size_t>(domain)]; }
std::string_view number_word(int n) { return kNumbers[n]; }

const std::vector<std::string_view>& values_of(Attribute attribute) {
  static const auto table = [] {
    std::array<std::vector<std::string_view>, kAttributeCount> values;
    for (const Subject& subject : subjects()) {
      for (std::size_t a = 0; a < values.size(); ++a) {
        const std::string_view v = subject.values[a];
        if (!v.empty() && std::ranges::find(values[a], v) == values[a].end()) values[a].push_back(v);
      }
    }
    return values;
  }();
  return table[at(attribute)];
}

bool are_similar(std::string_view a, std::string_view b) {
  for (const auto& group : kSimilar) {
    if (std::ranges::find(group, a) != group.end() && std::ranges::find(group, b) != group.end()) {
      return true;
    }
  }
  return a == b;
}

bool are_close(Domain a, Domain b) {
  const auto group = [](Domain d) {
    switch (d) {
      case kFarm:
      case kWild:
      case kSea:
      case kBird:
        return 1;
      case kFruit:
      case kVegetable:
        return 2;
      case kTool:
      case kKitchen:
      case kHouse:
        return 3;
      default:
        return 10 + static_cast<int>(d);
    }
  };
  return group(a) == group(b);
}

std::string fill(std::string_view text, std::initializer_list<std::pair<std::string_view, std::string_view>> values) {
  std::string result;
  for (std::size_t i = 0; i < text.size();) {
    if (text[i] == '{') {
      const std::size_t close = text.find('}', i);
      const std::string_view key = text.substr(i + 1, close - i - 1);
      for (const auto& [name, value] : values) {
        if (name == key) result += value;
      }
      i = close + 1;
    } else {
      result += text[i++];
    }
  }
  return result;
}

std::string with_article(const Subject& subject) {
  if (subject.article.empty()) return std::string(subject.name);
  return std::string(subject.article) + " " + std::string(subject.name);
}

std::string capitalized(std::string text) {
  if (!text.empty() && text[0] >= 'a' && text[0] <= 'z') text[0] = static_cast<char>(text[0] - 32);
  return text;
}

}  // namespace microworld
